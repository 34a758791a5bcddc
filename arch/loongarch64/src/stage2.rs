//! Stage 2: what a guest's physical addresses are.
