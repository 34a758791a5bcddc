//! What the bare-metal test guests share.
#![no_std]
