//! What a guest finds where: the one place that says so.
//!
//! The addresses are those of QEMU's `virt` machine, because every LoongArch kernel has met it. Memory comes in two
//! pieces around the devices. Its first 2 MiB are what a kernel leaves alone (it reserves them for the firmware), and in
//! them are the tables it starts with.

use core::ops::Range;

use kernel::addr::Gpa;
use kernel::domain::MAX_BOOTARGS;
use kernel::layout::PlaceError;

use crate::image::Image;
use crate::stage2::GPA_BITS;

/// The addresses that are memory, if a guest has enough of it: below the devices, then above.
pub const RAM: [Range<u64>; 2] = [0..0x1000_0000, 0x8000_0000..1 << GPA_BITS];
/// Where the kernel may be: all memory but its first 2 MiB.
pub const FREE: [Range<u64>; 2] = [0x20_0000..0x1000_0000, 0x8000_0000..1 << GPA_BITS];
/// The most memory a guest can have, in bytes.
pub const MAX_RAM: u64 = size(&RAM[0]) + size(&RAM[1]);

/// The command line, which ends with a NUL. Not at 0: a pointer of 0 is taken for none.
pub const COMMAND_LINE: Range<u64> = 0x1_0000..0x1_1000;
/// The EFI system table and what it points to, but for the device tree.
pub const EFI_TABLES: Range<u64> = 0x2_0000..0x3_0000;
/// The device tree.
pub const TREE: Range<u64> = 0x10_0000..0x20_0000;

/// The PCH-PIC's registers.
pub const PCH_PIC: Range<u64> = 0x1000_0000..0x1000_0400;
/// The real-time clock's registers.
pub const RTC: Range<u64> = 0x100d_0100..0x100d_0200;
/// The registers that switch off and reset the machine, one byte each: [`SLEEP_CONTROL`], a status, [`RESET`].
pub const POWER: Range<u64> = 0x100e_001c..0x100e_001f;
/// The legacy I/O range: port 0 and so on. A kernel looks for devices there; there are none.
pub const ISA: Range<u64> = 0x1800_0000..0x1800_4000;
/// The UART's registers.
pub const UART: Range<u64> = 0x1fe0_01e0..0x1fe0_01e8;
/// Where a message-signalled interrupt is written to.
pub const MSI: Range<u64> = 0x2ff0_0000..0x2ff0_0008;
/// The EIOINTC's registers, in the space of `IOCSRRD` and `IOCSRWR`.
pub const EIOINTC: Range<u64> = 0x1400..0x1d00;

/// The register in [`POWER`] that switches the machine off when [`POWER_OFF`] is written to it.
pub const SLEEP_CONTROL: u64 = 0;
/// The register in [`POWER`] that resets the machine when [`RESET_NOW`] is written to it.
pub const RESET: u64 = 2;
/// SLP_EN, and sleep type 5 (ACPI 6.5, 4.8.3.7).
pub const POWER_OFF: u8 = 0x34;
/// What resets the machine.
pub const RESET_NOW: u8 = 0x42;

/// The UART's input of the PCH-PIC.
pub const UART_PIN: u32 = 2;
/// The inputs of the PCH-PIC.
pub const PINS: u32 = 32;
/// The vectors of the EIOINTC: the first ones are for the PCH-PIC's inputs, the others for messages.
pub const VECTORS: u32 = 256;
/// The hardware interrupt of a CPU that the EIOINTC drives, as ESTAT.IS counts: HWI1.
pub const EIOINTC_LINE: u32 = 3;
/// The UART's clock in Hz.
pub const UART_CLOCK: u32 = 100_000_000;

/// The largest page size of a kernel, in bytes: what it gets and gives back starts and ends at multiples.
const PAGE: u64 = 0x1_0000;

const _: () = assert!((MAX_BOOTARGS as u64) < size(&COMMAND_LINE));

const fn size(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// The addresses that are memory in a guest that has `ram` bytes of it; the second range may be empty.
pub fn memory(ram: u64) -> [Range<u64>; 2] {
    let [low, high] = &RAM;
    let below = ram.min(size(low));
    let above = (ram - below).min(size(high));
    [low.start..low.start + below, high.start..high.start + above]
}

/// How much memory a guest must have for `end` to be the end of it.
fn memory_up_to(end: u64) -> u64 {
    let [low, high] = &RAM;
    if end <= low.end { end } else { size(low).saturating_add(end.saturating_sub(high.start)) }
}

/// Decides where the RAM disk goes, by its size in bytes and that of the memory and the device tree, and whether the
/// kernel can be where it says. The rest has its place above.
///
/// A kernel that randomises its own address moves upwards from where it was loaded, before it knows of anything it could
/// destroy. So the RAM disk is behind the kernel by four times the kernel's size, as on QEMU, or where that is too far, at
/// the end of memory. Always at the end would be simpler, but Debian's kernel takes 128 MiB in a row for devices (CMA)
/// where it finds them, and a guest of 256 MiB would have too little left.
pub fn place(ram: u64, image: &Image, initrd: Option<u64>, tree: u64) -> Result<Option<Gpa>, PlaceError> {
    if ram > MAX_RAM {
        return Err(PlaceError::TooMuchMemory { found: ram, most: MAX_RAM });
    }
    if tree > size(&TREE) {
        return Err(PlaceError::Tree { found: tree, most: size(&TREE) });
    }
    let kernel = image.extent();
    let inside = |range: &Range<u64>| range.start <= kernel.start && kernel.end <= range.end;
    if kernel.is_empty() || !FREE.iter().any(inside) {
        return Err(PlaceError::Kernel { found: kernel, free: &FREE });
    }
    let enough = memory_up_to(kernel.end);
    let needed = initrd.map_or(enough, |length| with_initrd(enough, length));
    let too_little = PlaceError::TooLittleMemory { found: ram, needed };
    if enough > ram {
        return Err(too_little);
    }
    initrd.map(|length| beside(&memory(ram), &kernel, length).map(Gpa).ok_or(too_little)).transpose()
}

/// Where in `memory` the `length` bytes of a RAM disk go, if they fit beside the kernel.
fn beside(memory: &[Range<u64>; 2], kernel: &Range<u64>, length: u64) -> Option<u64> {
    let [low, high] = memory;
    let behind = |room: &Range<u64>| {
        // The kernel is in memory, which has 47 bits of address.
        let at = (kernel.end + 4 * size(kernel)).next_multiple_of(PAGE);
        let fits = room.contains(&kernel.start) && at.checked_add(length)? <= room.end;
        fits.then_some(at)
    };
    let at_end = |room: &Range<u64>| {
        let start = if room.contains(&kernel.start) { kernel.end } else { room.start };
        Some(room.end.checked_sub(length)? & !(PAGE - 1)).filter(|at| *at >= start)
    };
    let rooms = [high.clone(), FREE[0].start.min(low.end)..low.end];
    rooms.iter().find_map(behind).or_else(|| rooms.iter().find_map(at_end))
}

/// How much memory a guest must have for a RAM disk that does not fit, if `kernel` bytes are enough up to the end of the
/// kernel.
fn with_initrd(kernel: u64, initrd: u64) -> u64 {
    let initrd = initrd.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let behind = kernel.saturating_add(PAGE).saturating_add(initrd);
    let low = size(&RAM[0]);
    // It does not lie across the devices.
    if kernel <= low && behind > low { low.saturating_add(initrd) } else { behind }
}

#[cfg(test)]
mod tests;
