//! The device tree that a guest finds.
