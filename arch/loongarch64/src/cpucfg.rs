//! What a guest reads with CPUCFG.
