//! A third architecture, made of ordinary values, for tests on the host.

pub mod fp;
