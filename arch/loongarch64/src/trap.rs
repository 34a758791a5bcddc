//! From an exception to what happened. Pure: the caller reads the registers.
