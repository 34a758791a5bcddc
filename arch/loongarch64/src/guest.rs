//! A vCPU's registers while it is not running, and what the portable core may do to them.
