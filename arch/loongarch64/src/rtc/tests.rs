//! Laws of the clock.

use core::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// Of the counter that the hypervisor has.
const HZ: u64 = 100_000_000;

struct Rig {
    rtc: Rtc,
    now: u64,
}

impl Rig {
    fn new(seconds: u64) -> Self {
        Self { rtc: Rtc::new(seconds, HZ), now: 0 }
    }

    fn load(&mut self, at: u64) -> u32 {
        self.rtc.access(at, 4, None, self.now) as u32
    }

    fn store(&mut self, at: u64, value: u32) {
        self.rtc.access(at, 4, Some(value.into()), self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds * HZ;
    }

    /// Year, month, day, hour, minute, second, as Linux's driver takes them apart.
    fn time(&mut self) -> [u32; 6] {
        let (word, year) = (self.load(TOY_READ0), self.load(TOY_READ1));
        [year + 1900, word >> 26, word >> 21 & 31, word >> 16 & 31, word >> 10 & 63, word >> 4 & 63]
    }

    /// Sets the time as Linux does: first all but the year, then the year, then it enables the clock.
    fn set(&mut self, [year, month, day, hour, minute, second]: [u32; 6]) {
        self.store(TOY_WRITE0, month << 26 | day << 21 | hour << 16 | minute << 10 | second << 4);
        self.store(TOY_WRITE1, year - 1900);
        let ctrl = self.load(CTRL);
        self.store(CTRL, ctrl | TEN | EO);
    }
}

/// A calendar that counts days one by one.
fn calendar(days: u64) -> [u32; 3] {
    let is_leap = |year: u32| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut month, mut day) = (1970, 1, 1);
    for _ in 0..days {
        let last = match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day += 1;
        if day > last {
            (month, day) = (month + 1, 1);
        }
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
    [year, month, day]
}

#[test]
fn time_passes_from_where_it_began() {
    // 2026-11-26 08:13:40 UTC.
    let mut rig = Rig::new(1_795_680_820);
    assert_eq!(rig.time(), [2026, 11, 26, 8, 13, 40]);
    rig.pass(86400 * 35 + 61);
    assert_eq!(rig.time(), [2026, 12, 31, 8, 14, 41]);
    rig.pass(86400);
    assert_eq!(rig.time(), [2027, 1, 1, 8, 14, 41]);
    rig.now += HZ / 2;
    assert_eq!(rig.load(TOY_READ0) & 0xf, 5, "tenths of a second");
    assert_eq!(rig.load(CTRL), REN | TEN | EO | STATUS, "firmware has enabled it");
}

#[test]
fn a_day_that_the_old_year_has_not_can_be_set() {
    let mut rig = Rig::new(0);
    for time in [[2024, 2, 29, 23, 59, 59], [2023, 12, 31, 23, 59, 59], [2000, 2, 29, 0, 0, 0]] {
        rig.set(time);
        assert_eq!(rig.time(), time);
    }
    rig.set([2024, 2, 29, 23, 59, 59]);
    rig.pass(1);
    assert_eq!(rig.time(), [2024, 3, 1, 0, 0, 0]);
    rig.pass(366 * 86400 - 1);
    assert_eq!(rig.time(), [2025, 3, 1, 23, 59, 59]);
}

#[test]
fn what_does_not_exist_is_read_back_and_then_later() {
    let mut rig = Rig::new(0);
    rig.set([2023, 2, 31, 24, 60, 60]);
    assert_eq!(rig.time(), [2023, 2, 31, 24, 60, 60]);
    rig.pass(1);
    assert_eq!(rig.time(), [2023, 3, 4, 1, 1, 1]);
    rig.set([2023, 0, 0, 0, 0, 0]);
    rig.pass(1);
    assert_eq!(rig.time(), [2022, 11, 30, 0, 0, 1]);
}

#[test]
fn counters_stand_while_they_or_the_crystal_are_disabled() {
    let mut rig = Rig::new(0);
    rig.store(RTC_WRITE0, 100);
    rig.pass(1);
    assert_eq!(rig.load(RTC_READ0), 100 + 32768);
    for (off, toy, rtc) in [(TEN, 0, 10), (REN, 10, 0), (EO, 0, 0)] {
        let (before, count) = (rig.time()[5], rig.load(RTC_READ0));
        rig.store(CTRL, (REN | TEN | EO) & !off);
        rig.pass(10);
        assert_eq!((rig.time()[5] - before, rig.load(RTC_READ0) - count), (toy, rtc * 32768));
        assert_eq!(rig.load(CTRL) & STATUS != 0, off != EO);
        rig.set([2020, 1, 1, 0, 0, 7]);
        assert_eq!(rig.time()[5], 7, "standing, it can be set");
        rig.store(CTRL, u32::MAX);
        assert_eq!(rig.load(CTRL), REN | TEN | EO | STATUS, "what exists");
    }
}

#[test]
fn alarms_are_kept_and_never_ring() {
    let mut rig = Rig::new(0);
    for (n, at) in [TOY_MATCH0, 0x38, TOY_MATCH2, RTC_MATCH0, 0x70, RTC_MATCH2, TOY_TRIM, RTC_TRIM]
        .into_iter()
        .enumerate()
    {
        rig.store(at, 0x1234 + n as u32);
        assert_eq!(rig.load(at), 0x1234 + n as u32);
    }
    assert_eq!((rig.load(TOY_WRITE0), rig.load(RTC_WRITE0), rig.load(0), rig.load(0xfc)), (0, 0, 0, 0));
    assert_eq!(rig.rtc.access(TOY_MATCH0, 8, None, 0), 0x1235_0000_1234);
}

#[test]
fn a_guest_is_switched_off_and_reset_by_its_registers() {
    assert_eq!(Power::of(0, 0x34), Some(Power::Off));
    assert_eq!(Power::of(0, 0xffff_ff34), Some(Power::Off), "of a wide store, the first byte");
    assert_eq!(Power::of(2, 0x42), Some(Power::Reset));
    for (offset, value) in [(0, 0x42), (1, 0x34), (2, 0x34), (0, 0x30), (0, 0), (u64::MAX, 0x42)] {
        assert_eq!(Power::of(offset, value), None);
    }
}

/// A machine's clock, which moves on whenever it is read.
struct Own {
    rtc: RefCell<(Rtc, u64)>,
    step: u64,
}

impl Registers for Own {
    fn read32(&self, offset: usize) -> u32 {
        let (rtc, now) = &mut *self.rtc.borrow_mut();
        *now += self.step;
        rtc.access(offset as u64, 4, None, *now) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        let (rtc, now) = &mut *self.rtc.borrow_mut();
        rtc.access(offset as u64, 4, Some(value.into()), *now);
    }

    fn write8(&self, _offset: usize, _value: u8) {}
}

fn own(seconds: u64, step: u64) -> Own {
    Own { rtc: RefCell::new((Rtc::new(seconds, HZ), 0)), step }
}

#[test]
fn the_machine_s_own_clock_is_read_even_at_new_year() {
    assert_eq!(read(&own(1_795_680_820, 0)), Some(1_795_680_820));
    // Four reads at most: 2027 begins before the first, the second, and so on.
    for late in 1..6 {
        let seconds = 1_798_761_600 - late;
        let time = read(&own(seconds, HZ)).unwrap();
        assert!((seconds..seconds + 7).contains(&time), "{time} {late}");
    }
    let off = own(1_795_680_820, 0);
    off.write32(CTRL as usize, 0);
    assert_eq!(read(&off), Some(1_795_680_820), "it is enabled on the way");
    let unset = own(0, 0);
    unset.write32(TOY_WRITE0 as usize, 0);
    assert_eq!(read(&unset), None);
}

#[test]
fn a_day_long_before_1970_is_one_of_a_month() {
    let (_, month, day) = date(-8_888_351_888);
    assert!((1..=12).contains(&month) && (1..=31).contains(&day), "{month} {day}");
}

proptest! {
    #[test]
    fn the_calendar_is_that_of_days_counted_one_by_one(days in 0u64..200_000, second in 0u64..86400) {
        let seconds = days * 86400 + second;
        let mut rig = Rig::new(seconds);
        let [year, month, day] = calendar(days);
        let second = second as u32;
        prop_assert_eq!(rig.time(), [year, month, day, second / 3600, second / 60 % 60, second % 60]);
        prop_assert_eq!(Fields::from_seconds(seconds as i64).seconds(), seconds as i64);
    }

    #[test]
    fn every_day_is_one_of_a_month(days in prop_oneof![-40_000i64..7_000_000, -10_000_000_000i64..10_000_000_000]) {
        let (year, month, day) = date(days);
        let months = 12 * year + i64::from(month) - 1;
        prop_assert!((1..=12).contains(&month) && day >= 1);
        prop_assert_eq!(days_before(months) + i64::from(day) - 1, days);
        prop_assert!(days < days_before(months + 1));
    }

    #[test]
    fn a_time_that_was_set_goes_on(set in 0u64..4_000_000_000, passes in 0u64..400_000_000) {
        let (mut clock, mut other) = (Rig::new(77), Rig::new(set));
        let time = other.time();
        clock.set(time);
        prop_assert_eq!(clock.time(), time);
        clock.pass(passes);
        other.pass(passes);
        prop_assert_eq!(clock.time(), other.time());
    }

    #[test]
    fn any_access_is_answered_within_its_width(
        seconds: u64,
        hz: u64,
        accesses in prop::collection::vec((any::<u64>(), any::<u8>(), any::<Option<u64>>(), any::<u64>(), any::<bool>()), 1..200),
    ) {
        let mut rtc = Rtc::new(seconds, hz);
        for (at, width, store, now, near) in accesses {
            let at = if near { at % 0x80 } else { at };
            let value = rtc.access(at, width, store, now);
            let bits = 8 * u32::from(width.clamp(1, 8));
            prop_assert!(store.is_none() || value == 0);
            prop_assert!(value.checked_shr(bits).unwrap_or(0) == 0);
        }
    }
}
