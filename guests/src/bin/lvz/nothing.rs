//! AArch64: its virtualisation is for EL2, where guests are not.

use guests::report::{Done, test};

pub(crate) fn main() {
    test("lvz", || Ok(Done::Skipped("LVZ is LoongArch's")));
}
