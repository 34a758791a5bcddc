//! What both architectures do alike and the portable core must not: touching physical memory and device registers, what an
//! access of a guest does with a value, and how a kernel's header starts.
//!
//! An architecture says with a [`Reach`](ram::Reach) where it sees physical memory; the rest is the same everywhere.
#![no_std]

extern crate alloc;

pub mod access;
pub mod image;
pub mod mmio;
pub mod ram;
pub mod serial;
pub mod terminal;
