use alloc::boxed::Box;
use alloc::vec;

use super::*;

/// The host's memory stands in for the machine's: addresses are what they are.
struct Host;

impl Reach for Host {
    const OFFSET: u64 = 0;
    fn clean(_: u64, _: u64) {}
}

fn memory(bytes: usize) -> Region {
    let memory = Box::leak(vec![0xa5u64; bytes / 8].into_boxed_slice());
    Region::new(Hpa(memory.as_mut_ptr().expose_provenance() as u64), bytes as u64).unwrap()
}

fn laid(regions: &[Region], windows: &[Range<u64>]) -> Option<GuestRam<Host>> {
    // SAFETY: the regions were leaked for this test alone.
    unsafe { GuestRam::new(regions, windows) }
}

#[test]
fn pieces_follow_each_other_and_cross_windows() {
    let regions = [memory(4096), memory(8192)];
    let ram = laid(&regions, &[0x1000..0x3000, 0x8000..0x10000]).unwrap();
    assert!(ram.contains(Gpa(0x1000)) && ram.contains(Gpa(0x2fff)) && ram.contains(Gpa(0x8fff)));
    assert!(!ram.contains(Gpa(0xfff)) && !ram.contains(Gpa(0x3000)) && !ram.contains(Gpa(0x9000)));
    ram.clear();
    let bytes: Vec<u8> = (0..=255).collect();
    // Across the border of the two regions, and up to the end of the first window.
    ram.write(Gpa(0x2000 - 128), &bytes);
    ram.write(Gpa(0x3000 - 4), &[1, 2, 3, 4, 5]);
    assert_eq!(ram.read_word(Gpa(0x2000 - 128)), Some(0x0302_0100));
    assert_eq!(ram.read_word(Gpa(0x2000)), Some(0x8382_8180));
    assert_eq!(ram.read_word(Gpa(0x2ffc)), Some(0x0403_0201));
    // What was beyond the window is left out.
    assert_eq!(ram.read_word(Gpa(0x8000)), Some(0));
    assert_eq!(ram.read_word(Gpa(0x2001)), None);
    assert_eq!(ram.read_word(Gpa(0x9000)), None);
}

#[test]
fn memory_that_no_window_has_room_for_is_refused() {
    assert!(laid(&[memory(8192)], core::slice::from_ref(&(0x1000..0x2000))).is_none());
    assert!(laid(&[memory(4096)], &[]).is_none());
}

#[test]
fn tables_are_where_the_hardware_is_told() {
    let mut tables = HeapTables::<Host>::default();
    let table = tables.allocate(4096).unwrap();
    assert_eq!(table.0 % 4096, 0);
    tables.word(Hpa(table.0 + 8)).store(7, core::sync::atomic::Ordering::Relaxed);
    assert_eq!(tables.word(Hpa(table.0 + 8)).load(core::sync::atomic::Ordering::Relaxed), 7);
    tables.release(table, 4096);
}
