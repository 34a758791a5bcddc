//! Instructions that touch what a guest does not have in hardware: decoding, and the registers behind them.
