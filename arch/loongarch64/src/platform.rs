//! What the tree says about the parts that every LoongArch machine has.
