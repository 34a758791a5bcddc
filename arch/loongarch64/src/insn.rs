//! Loads and stores that stopped a guest.
