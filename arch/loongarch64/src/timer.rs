//! A guest's timer while it is not in the hardware.
//!
//! The hardware counts `TVAL` down only for the guest that is loaded. What is kept here is the absolute time at
//! which it reaches zero, so the timer of a guest that is away runs on (LoongArch Vol.1 7.6).
//!
//! Whether a one-shot timer that fired keeps `TCFG.EN` is not the same everywhere: QEMU clears it, silicon may
//! leave it set with `TVAL` all ones. Both mean the same, and are put back as the former: a counter that does not
//! run cannot fire again by being written.

use kernel::addr::Ticks;

/// `TCFG`: the timer counts.
const EN: u64 = 1 << 0;
/// `TCFG`: it starts anew from InitVal when it fires.
const PERIODIC: u64 = 1 << 1;
/// `TCFG.InitVal` is a multiple of four ticks.
const STEP: u64 = 4;

/// What the registers of a timer hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// `TCFG`.
    pub tcfg: u64,
    /// `TVAL`.
    pub tval: u64,
    /// `ESTAT.IS[11]`, TI.
    pub ti: bool,
}

impl Registers {
    /// What was read of a timer that may be running, in this order. One that fires on the way is seen to have fired, by its
    /// interrupt or because the counter went up, or is seen not to have, whatever it does next: it fires once.
    #[must_use]
    pub const fn read(tcfg: u64, first_tval: u64, ti: bool, tval: u64) -> Self {
        Self { tcfg, tval, ti: ti || tval > first_tval }
    }
}

/// Whether the counter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// It stands at this value.
    Stopped(u64),
    /// It reaches zero at this time.
    Until(Ticks),
}

/// A timer that is not in the hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The bits of the counter, as ones.
    mask: u64,
    tcfg: u64,
    run: Run,
    ti: bool,
}

impl Timer {
    /// A timer at power-on, whose counter has `bits` bits (`PRCFG1.TimerBits` plus one).
    pub fn new(bits: u32) -> Self {
        let mask = 1u64.checked_shl(bits).map_or(u64::MAX, |above| above - 1);
        Self { mask, tcfg: 0, run: Run::Stopped(0), ti: false }
    }

    /// Takes the timer out of the hardware. `now` is the time after its registers were read: it may be late by what passed
    /// in between, but never early.
    pub fn save(&mut self, registers: Registers, now: Ticks) {
        let Registers { tcfg, tval, ti } = registers;
        let tval = tval & self.mask;
        self.tcfg = tcfg;
        self.ti = ti;
        self.run = match (tcfg & EN != 0, tcfg & PERIODIC != 0) {
            (false, _) => Run::Stopped(tval),
            (true, true) => Run::Until(Ticks(now.0.saturating_add(tval.min(self.period())))),
            // A counter above its start has gone through zero.
            (true, false) if tval > self.start() => self.spent(),
            (true, false) => Run::Until(Ticks(now.0.saturating_add(tval))),
        };
    }

    /// What the registers hold if the timer goes back into the hardware at `now`. Stop the timer, then write
    /// TI, `TCFG` and `TVAL`, in this order.
    #[must_use]
    pub fn restore(&self, now: Ticks) -> Registers {
        let ti = self.pending(now);
        match self.run {
            Run::Stopped(tval) => Registers { tcfg: self.tcfg, tval, ti },
            Run::Until(at) if at > now => Registers { tcfg: self.tcfg, tval: at.0 - now.0, ti },
            Run::Until(_) if self.tcfg & PERIODIC == 0 => {
                Registers { tcfg: self.tcfg & !EN, tval: self.mask, ti }
            }
            Run::Until(at) => {
                let period = self.period();
                Registers { tcfg: self.tcfg, tval: period - (now.0 - at.0) % period, ti }
            }
        }
    }

    /// Whether TI is set at `now`.
    #[must_use]
    pub fn pending(&self, now: Ticks) -> bool {
        self.ti || matches!(self.run, Run::Until(at) if at <= now)
    }

    /// When TI is next set; never if it is set already or the counter stands.
    #[must_use]
    pub fn deadline(&self) -> Option<Ticks> {
        match self.run {
            Run::Until(at) if !self.ti => Some(at),
            _ => None,
        }
    }

    /// A one-shot timer that fired.
    fn spent(&mut self) -> Run {
        self.tcfg &= !EN;
        Run::Stopped(self.mask)
    }

    /// Where the counter starts.
    fn start(&self) -> u64 {
        self.tcfg & self.mask & !(STEP - 1)
    }

    /// Ticks between two firings of a periodic timer; one that never rests counts as the shortest that does.
    fn period(&self) -> u64 {
        self.start().max(STEP)
    }
}

#[cfg(test)]
mod tests;
