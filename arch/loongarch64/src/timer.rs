//! A guest's timer while it is not in the hardware.
