//! The real-time clock of a Loongson 7A, as a guest sees it.
