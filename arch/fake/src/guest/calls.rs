//! How a pretend vCPU calls the hypervisor, and what it makes of the answer.

use kernel::addr::Gpa;
use kernel::arch::Reply;
use kernel::exit::{Call, Crash, Exit};

use super::FakeGuest;
use crate::script::{Op, RESETS};
use crate::watch::Sure;
use crate::{NOWHERE, RAM};

impl FakeGuest {
    /// Calls the hypervisor.
    pub(super) fn call(&mut self, op: Op) -> Option<Exit> {
        let count = self.shared.plot.scripts.len();
        self.calls += 1;
        let arg = (self.shared.life as u64) << 32 | (self.index as u64) << 24 | self.calls;
        let mut before = Sure::Nothing;
        let call = match op {
            Op::On { vcpu, entry } if usize::from(vcpu) % (count + 1) < count => {
                let index = usize::from(vcpu) % (count + 1);
                let length = self.shared.plot.scripts[index].len().max(1);
                let entry = Gpa(RAM + 4 * (usize::from(entry) % length) as u64);
                before = self.shared.note(index, |watch, who, now| watch.asks(who, entry, arg, now));
                Call::CpuOn { vcpu: Some(index), entry, arg }
            }
            Op::On { entry, .. } => {
                let vcpu = [None, Some(count), Some(usize::MAX)][usize::from(entry) % 3];
                Call::CpuOn { vcpu, entry: Gpa(RAM), arg }
            }
            Op::OnNowhere(vcpu) => {
                Call::CpuOn { vcpu: Some(usize::from(vcpu) % count), entry: Gpa(NOWHERE), arg }
            }
            Op::State(vcpu) => {
                let index = usize::from(vcpu) % (count + 1);
                if index < count {
                    before = self.shared.note(index, |watch, who, now| watch.sure(who, now));
                }
                Call::State(Some(index))
            }
            Op::Ledger => Call::Ledger,
            Op::Touches => Call::Touches,
            Op::Off => {
                self.shared.note(self.index, |watch, who, now| watch.off(who, now));
                Call::CpuOff
            }
            Op::Reset if self.shared.past < RESETS => Call::Reset,
            Op::Crash => return self.finish(Exit::Crash(Crash::SystemError { syndrome: 7 })),
            _ => Call::PowerOff,
        };
        match call {
            Call::PowerOff | Call::Reset => return self.finish(Exit::Call(call)),
            Call::CpuOff => self.gone = true,
            _ => self.call = Some((call, before)),
        }
        Some(Exit::Call(call))
    }

    /// Ends the guest.
    fn finish(&mut self, exit: Exit) -> Option<Exit> {
        self.gone = true;
        self.shared.note(self.index, |watch, who, now| watch.ends(who.0, now));
        Some(exit)
    }

    /// Whether the answer to a call is right.
    pub(super) fn check_reply(&mut self, call: Call, before: Sure, reply: Reply) -> Result<(), String> {
        let count = self.shared.plot.scripts.len();
        let expect = |wanted| match reply == wanted {
            true => Ok(()),
            false => Err(format!("{call:x?} was answered {reply:?}, expected {wanted:?}")),
        };
        match call {
            Call::CpuOn { vcpu, .. } if vcpu.is_none_or(|vcpu| vcpu >= count) => {
                expect(Reply::InvalidParameters)
            }
            Call::CpuOn { entry, .. } if entry.0 == NOWHERE => expect(Reply::InvalidAddress),
            Call::CpuOn { vcpu: Some(vcpu), arg, .. } => {
                self.shared.note(vcpu, |watch, who, now| watch.answered(who, arg, before, reply, now))
            }
            Call::State(Some(vcpu)) if vcpu == self.index => expect(Reply::On),
            Call::State(Some(vcpu)) if vcpu < count => {
                self.shared.note(vcpu, |watch, who, _| watch.described(who, before, reply))
            }
            Call::State(_) => expect(Reply::InvalidParameters),
            Call::Ledger => grow(&mut self.ledger, reply),
            Call::Touches => grow(&mut self.touches, reply),
            _ => Err(format!("{call:?} came back with {reply:?}")),
        }
    }
}

/// Takes in new values of the ledger, none of which may be less than before.
fn grow(known: &mut [u64; 4], reply: Reply) -> Result<(), String> {
    match reply {
        Reply::Values(values) if values.iter().zip(*known).all(|(new, old)| *new >= old) => {
            *known = values;
            Ok(())
        }
        _ => Err(format!("the ledger is {reply:?}, it was {known:?}")),
    }
}
