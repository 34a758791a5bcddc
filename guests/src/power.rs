//! Power: of the machine, and of single vCPUs.

pub use crate::arch::power::{OnError, cpu_on, is_off, system_off, system_reset};
