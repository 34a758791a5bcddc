//! What a guest finds where: the one place that says so.
//!
//! The addresses are those of QEMU's `virt` machine, because every arm64 kernel and boot loader has met it.

use core::ops::Range;

use kernel::addr::Gpa;
use kernel::layout::PlaceError;

use crate::image::Image;
use crate::stage2::IPA_BITS;

/// The distributor's registers, 64 KiB.
pub const GICD: Range<u64> = 0x0800_0000..0x0801_0000;
/// The first redistributor's registers; those of vCPU `n` are `n` times [`GICR_SIZE`] further on.
pub const GICR: u64 = 0x080a_0000;
/// The size of a redistributor's registers in bytes: its own frame and that of its SGIs and PPIs.
pub const GICR_SIZE: u64 = 0x2_0000;
/// The UART's registers.
pub const UART: Range<u64> = 0x0900_0000..0x0900_1000;
/// The UART's interrupt: SPI 1.
pub const UART_INTID: u32 = 32 + UART_SPI;
/// The UART's interrupt as the device tree counts.
pub const UART_SPI: u32 = 1;
/// The UART's clock in Hz.
pub const UART_CLOCK: u32 = 24_000_000;
/// Where memory starts.
pub const RAM: u64 = 0x4000_0000;
/// The most memory a guest can have, in bytes: what its addresses leave above [`RAM`].
pub const MAX_RAM: u64 = (1 << IPA_BITS) - RAM;
/// The largest device tree a kernel accepts, in bytes; it must not cross a multiple of this either.
pub const MAX_TREE: u64 = 2 << 20;

/// The private interrupts of the timers, by INTID.
pub mod ppi {
    /// The EL2 physical timer; unused in a guest without EL2.
    pub const EL2_PHYSICAL: u32 = 26;
    /// The virtual timer.
    pub const VIRTUAL: u32 = 27;
    /// The secure physical timer; unused.
    pub const SECURE_PHYSICAL: u32 = 29;
    /// The physical timer.
    pub const PHYSICAL: u32 = 30;
}

/// The redistributors' registers of a guest with `cpus` vCPUs.
pub const fn redistributors(cpus: u32) -> Range<u64> {
    GICR..GICR + cpus as u64 * GICR_SIZE
}

/// The affinity fields of vCPU `index`'s MPIDR_EL1, which are its `reg` in the tree. An SGI reaches
/// 16 CPUs that differ in Aff0 only, so the rest is in Aff1.
pub const fn affinity(index: u32) -> u64 {
    (index / 16) as u64 * 0x100 + (index % 16) as u64
}

/// Where everything goes in a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The kernel, which is also where it is entered.
    pub kernel: Gpa,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<Gpa>,
    /// The device tree.
    pub tree: Gpa,
}

/// Decides where kernel, RAM disk and device tree go, by their sizes in bytes and that of the memory.
///
/// The RAM disk follows the kernel and all the memory that the kernel's header claims, and the tree follows the RAM
/// disk: then it can be written when the address of the RAM disk is known. All start at multiples of 4 KiB, and the
/// tree does not cross a multiple of 2 MiB (Documentation/arch/arm64/booting in Linux).
pub fn place(ram: u64, image: &Image, initrd: Option<u64>, tree: u64) -> Result<Placement, PlaceError> {
    const PAGE: u64 = 0x1000;
    if ram > MAX_RAM {
        return Err(PlaceError::TooMuchMemory { found: ram, most: MAX_RAM });
    }
    if tree > MAX_TREE {
        return Err(PlaceError::Tree { found: tree, most: MAX_TREE });
    }
    // A sum that overflows needs more than there can be.
    let sum = |at: u64, size: u64| at.saturating_add(size);
    let up = |at: u64, align| at.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let ramdisk = up(sum(image.offset, image.size), PAGE);
    let mut blob = up(sum(ramdisk, initrd.unwrap_or(0)), PAGE);
    if blob / MAX_TREE != sum(blob, tree.saturating_sub(1)) / MAX_TREE {
        blob = up(blob, MAX_TREE);
    }
    let needed = sum(blob, tree);
    if needed > ram {
        return Err(PlaceError::TooLittleMemory { found: ram, needed });
    }
    let at = |offset: u64| Gpa(RAM + offset);
    Ok(Placement { kernel: at(image.offset), initrd: initrd.map(|_| at(ramdisk)), tree: at(blob) })
}

#[cfg(test)]
mod tests;
