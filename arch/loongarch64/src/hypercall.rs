//! What a guest may ask with HVCL. Pure.
//!
//! Anything a guest can do with its platform it does with its chips, so the only calls are Fermata's own.
//! They change nothing, so a guest's programs may make them as well as its kernel.

use kernel::exit::{Call, Reply};

use crate::guest::Frame;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Answered: the value of a0.
    Answer(u64),
    /// For the portable core.
    Core(Call),
}

/// The code of Fermata's own calls. Linux KVM has 0x100 and what follows.
pub const FERMATA: u32 = 0x7ec;
/// Fermata's own, function in a0: the guest's FP ledger.
pub const LEDGER: u64 = 1;
/// The same: the rest of the ledger.
pub const TOUCHES: u64 = 2;

const NOT_SUPPORTED: u64 = -1i64 as u64;
/// a0; a1 and so on follow it.
const A0: usize = 4;

/// Decodes the HVCL `word` (LoongArch Vol.1 appendix B: the code is in bits 14 to 0), made with `frame`.
pub fn decode(word: u32, frame: &Frame) -> Service {
    match (word & 0x7fff, frame.r[A0]) {
        (FERMATA, LEDGER) => Service::Core(Call::Ledger),
        (FERMATA, TOUCHES) => Service::Core(Call::Touches),
        _ => Service::Answer(NOT_SUPPORTED),
    }
}

/// Puts the answer to a [`Call`] into a0, or a0 to a3.
pub fn reply(reply: Reply, frame: &mut Frame) {
    match reply {
        Reply::Values(values) => frame.r[A0..A0 + 4].copy_from_slice(&values),
        Reply::Done => frame.r[A0] = 0,
        _ => frame.r[A0] = NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(code: u32, a0: u64) -> Service {
        let mut frame = Frame::default();
        frame.r[A0] = a0;
        decode(0x002b_8000 | code, &frame)
    }

    #[test]
    fn the_ledger_is_all_that_can_be_called() {
        assert_eq!(call(0x7ec, 1), Service::Core(Call::Ledger));
        assert_eq!(call(0x7ec, 2), Service::Core(Call::Touches));
        for (code, a0) in [(0x7ec, 0), (0x7ec, 3), (0x7ec, u64::MAX), (0x100, 1), (0, 1), (0x7fff, 1)] {
            assert_eq!(call(code, a0), Service::Answer(NOT_SUPPORTED), "{code:#x} {a0}");
        }
    }

    #[test]
    fn an_answer_is_one_value_or_four() {
        let mut frame = Frame { r: [9; 32], ..Frame::default() };
        reply(Reply::Done, &mut frame);
        assert_eq!(frame.r[A0..A0 + 2], [0, 9]);
        reply(Reply::Denied, &mut frame);
        assert_eq!(frame.r[A0..A0 + 2], [u64::MAX, 9]);
        reply(Reply::Values([1, 2, 3, 4]), &mut frame);
        assert_eq!(frame.r[3..9], [9, 1, 2, 3, 4, 9]);
    }
}
