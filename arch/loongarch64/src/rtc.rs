//! The real-time clock of a Loongson 7A, as a guest sees it, and the registers that switch its machine off.
//!
//! There are two counters of a 32768 Hz crystal (Loongson 7A1000 user manual, "RTC"): TOY, the time of year, which is
//! kept in fields, and RTC, a plain number. Firmware has set and enabled both. The registers for alarms only keep what
//! is written: there is no interrupt, and the guest's tree names none.

#[cfg(test)]
mod tests;

use crate::irqchip::Registers;
use crate::layout::{POWER_OFF, RESET, RESET_NOW, SLEEP_CONTROL};
use crate::words::{Words, merge};

/// Ticks of the crystal in a second.
const TICKS: u64 = 32768;

// Offsets.
const TOY_TRIM: u64 = 0x20;
const TOY_WRITE0: u64 = 0x24;
const TOY_WRITE1: u64 = 0x28;
const TOY_READ0: u64 = 0x2c;
const TOY_READ1: u64 = 0x30;
const TOY_MATCH0: u64 = 0x34;
const TOY_MATCH2: u64 = 0x3c;
const CTRL: u64 = 0x40;
const RTC_TRIM: u64 = 0x60;
const RTC_WRITE0: u64 = 0x64;
const RTC_READ0: u64 = 0x68;
const RTC_MATCH0: u64 = 0x6c;
const RTC_MATCH2: u64 = 0x74;

/// `CTRL`: RTC and TOY are enabled, the crystal is, and it oscillates.
const REN: u32 = 1 << 13;
const TEN: u32 = 1 << 11;
const EO: u32 = 1 << 8;
const STATUS: u32 = 1 << 5;

/// A time as TOY has it: what was written, whether it exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    /// Since 1900, as all software has it; 14 bits.
    year: u32,
    /// From 1.
    month: u32,
    /// From 1.
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

/// The largest year that the register holds.
const YEAR: u32 = 0x3fff;

impl Fields {
    /// The time after some seconds since 1970.
    fn from_seconds(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400) as u32);
        let (year, month, day) = date(days);
        Self {
            year: (year - 1900) as u32 & YEAR,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Seconds since 1970. What does not exist, such as the 31st of a shorter month, is so much later.
    fn seconds(&self) -> i64 {
        let months = 12 * (i64::from(self.year) + 1900) + i64::from(self.month) - 1;
        let days = days_before(months) + i64::from(self.day) - 1;
        86400 * days + i64::from(3600 * self.hour + 60 * self.minute + self.second)
    }

    /// `TOY_READ0`, but for the tenths of a second.
    fn word(&self) -> u32 {
        self.month << 26 | self.day << 21 | self.hour << 16 | self.minute << 10 | self.second << 4
    }

    /// With what is written to `TOY_WRITE0`.
    fn with_word(&self, word: u32) -> Self {
        Self {
            year: self.year,
            month: word >> 26,
            day: word >> 21 & 0x1f,
            hour: word >> 16 & 0x1f,
            minute: word >> 10 & 0x3f,
            second: word >> 4 & 0x3f,
        }
    }
}

/// Days from 1970 to the beginning of a month, counted from January of year 0.
fn days_before(months: i64) -> i64 {
    // Years begin in March, so that the day that comes and goes is their last: 153 days are five months then.
    let march = months - 2;
    let (year, month) = (march.div_euclid(12), march.rem_euclid(12));
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 - 719_468
}

/// Year, month and day of a day since 1970.
fn date(days: i64) -> (i64, u32, u32) {
    // The month that the day is in, or the one before or after it.
    let guess = 1970 * 12 + (days * 4800).div_euclid(146_097);
    let months =
        (guess - 1..=guess + 1).rev().find(|months| days_before(*months) <= days).unwrap_or(guess - 1);
    let day = days - days_before(months) + 1;
    (months.div_euclid(12), months.rem_euclid(12) as u32 + 1, day as u32)
}

/// A counter of the crystal's ticks that runs or stands.
#[derive(Clone, Copy, Debug)]
struct Counter {
    value: u64,
    /// When it had that value, while it runs.
    since: Option<u64>,
}

impl Counter {
    fn read(&self, now: u64) -> u64 {
        self.value.wrapping_add(self.since.map_or(0, |since| now.saturating_sub(since)))
    }

    fn set(&mut self, value: u64, now: u64) {
        self.value = value;
        self.since = self.since.map(|_| now);
    }

    fn run(&mut self, runs: bool, now: u64) {
        self.value = self.read(now);
        self.since = runs.then_some(now);
    }
}

/// One clock as a guest sees it.
#[derive(Debug)]
pub struct Rtc {
    /// The frequency of the counter that accesses are given the time in.
    hz: u64,
    /// What TOY was when `toy` was zero.
    fields: Fields,
    toy: Counter,
    rtc: Counter,
    ctrl: u32,
    trim: [u32; 2],
    toy_match: [u32; 3],
    rtc_match: [u32; 3],
}

impl Rtc {
    /// A clock that says `seconds` since 1970 when a counter of `hz` ticks a second is zero.
    pub fn new(seconds: u64, hz: u64) -> Self {
        let running = Counter { value: 0, since: Some(0) };
        Self {
            hz: hz.max(1),
            // Far more than the register holds.
            fields: Fields::from_seconds(seconds.min(1 << 40) as i64),
            toy: running,
            rtc: running,
            ctrl: REN | TEN | EO,
            trim: [0; 2],
            toy_match: [0; 3],
            rtc_match: [0; 3],
        }
    }

    /// Answers an access of `width` bytes at `offset`, at `now` in ticks of the counter.
    pub fn access(&mut self, offset: u64, width: u8, store: Option<u64>, now: u64) -> u64 {
        let now = (u128::from(now) * u128::from(TICKS) / u128::from(self.hz)) as u64;
        let words = Words::new(offset, width);
        match store {
            Some(value) => {
                words.store(value, |offset, value, lanes| self.write(offset, value, lanes, now));
                0
            }
            None => words.load(|offset| self.read(offset, now)),
        }
    }

    /// The time of year.
    fn time(&self, now: u64) -> Fields {
        match self.toy.read(now) / TICKS {
            // What was just written, even if it does not exist.
            0 => self.fields,
            seconds => Fields::from_seconds(self.fields.seconds() + seconds as i64),
        }
    }

    fn read(&self, offset: u64, now: u64) -> u32 {
        match offset {
            TOY_TRIM => self.trim[0],
            TOY_READ0 => self.time(now).word() | (self.toy.read(now) % TICKS * 10 / TICKS) as u32,
            TOY_READ1 => self.time(now).year,
            TOY_MATCH0..=TOY_MATCH2 => self.toy_match[(offset - TOY_MATCH0) as usize / 4],
            CTRL if self.ctrl & EO != 0 => self.ctrl | STATUS,
            CTRL => self.ctrl,
            RTC_TRIM => self.trim[1],
            RTC_READ0 => self.rtc.read(now) as u32,
            RTC_MATCH0..=RTC_MATCH2 => self.rtc_match[(offset - RTC_MATCH0) as usize / 4],
            _ => 0,
        }
    }

    /// Writes `lanes` of a register; the registers that set the time have to be written whole.
    fn write(&mut self, offset: u64, value: u32, lanes: u32, now: u64) {
        const WHOLE: u32 = u32::MAX;
        let set = |field: &mut u32| *field = merge(*field, value, lanes);
        match (offset, lanes) {
            (TOY_TRIM, _) => set(&mut self.trim[0]),
            (TOY_WRITE0, WHOLE) => {
                self.fields = self.time(now).with_word(value);
                let tenths = u64::from(value & 0xf).min(9);
                self.toy.set((tenths * TICKS).div_ceil(10), now);
            }
            (TOY_WRITE1, WHOLE) => {
                self.fields = Fields { year: value & YEAR, ..self.time(now) };
                self.toy.set(self.toy.read(now) % TICKS, now);
            }
            (TOY_MATCH0..=TOY_MATCH2, _) => set(&mut self.toy_match[(offset - TOY_MATCH0) as usize / 4]),
            (CTRL, _) => {
                self.ctrl = merge(self.ctrl, value, lanes) & (REN | TEN | EO);
                self.toy.run(self.ctrl & (TEN | EO) == TEN | EO, now);
                self.rtc.run(self.ctrl & (REN | EO) == REN | EO, now);
            }
            (RTC_TRIM, _) => set(&mut self.trim[1]),
            (RTC_WRITE0, WHOLE) => self.rtc.set(value.into(), now),
            (RTC_MATCH0..=RTC_MATCH2, _) => set(&mut self.rtc_match[(offset - RTC_MATCH0) as usize / 4]),
            _ => {}
        }
    }
}

/// Reads the machine's own clock: seconds since 1970, or none if it says nothing that could be the time. It is enabled
/// if firmware has not done so.
pub fn read(registers: &impl Registers) -> Option<u64> {
    let ctrl = registers.read32(CTRL as usize);
    if ctrl & (TEN | EO) != TEN | EO {
        registers.write32(CTRL as usize, ctrl | TEN | EO);
    }
    // Once more if the year changed between the two, which it does not do twice.
    let both = || (registers.read32(TOY_READ1 as usize), registers.read32(TOY_READ0 as usize));
    let (year, word) = both();
    let (year, word) = if registers.read32(TOY_READ1 as usize) == year { (year, word) } else { both() };
    let fields = Fields { year, month: 1, day: 1, hour: 0, minute: 0, second: 0 }.with_word(word);
    let plausible = year <= YEAR && (1..=12).contains(&fields.month) && fields.day > 0;
    u64::try_from(fields.seconds()).ok().filter(|_| plausible)
}

/// What a guest wants of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// To be switched off.
    Off,
    /// To start anew.
    Reset,
}

impl Power {
    /// What a store of `value` asks for, `offset` bytes from the start of [`POWER`](crate::layout::POWER). The
    /// registers are a byte wide, so of a wider store only the first byte counts.
    pub fn of(offset: u64, value: u64) -> Option<Self> {
        match (offset, value as u8) {
            (SLEEP_CONTROL, POWER_OFF) => Some(Self::Off),
            (RESET, RESET_NOW) => Some(Self::Reset),
            _ => None,
        }
    }
}
