//! Guest identifiers, which tag what a CPU's TLBs hold, given out by generation.
