//! Fermata's own address space: how EL2 maps what it uses.

use arch_common::ram::HeapTables;
use kernel::addr::{Gpa, Hpa};
use kernel::mem::{Memory, Region, Regions};
use kernel::paging::{Rights, Space};
use kernel::start::{Failure, Image};

use crate::el2::{self, El2};
use crate::ram::Identity;
use crate::{boot, id, platform};

/// Builds and enters Fermata's own address space: memory at its own address, code not writable, data not
/// executable, and the devices it drives.
pub(crate) fn build_map(
    memory: &Memory,
    unmapped: &[Region],
    image: Image,
    gic: &platform::Gic<'_>,
    blob: Region,
    uart: Option<Region>,
) -> Result<(), Failure> {
    let failed = |error| alloc::format!("our own address space could not be made: {error:?}");
    let mut space = Space::new(El2, HeapTables::<Identity>::default()).map_err(failed)?;
    let mut map =
        |region: Region, rights| space.map(Gpa(region.base().0), region.base(), region.size(), rights);
    let part = |from: u64, to: u64| Region::new(Hpa(from), to - from);
    let image_parts = [
        (part(image.start, image.text_end), Rights::ReadOnly),
        (part(image.text_end, image.rodata_end), Rights::Constant),
        (part(image.rodata_end, image.end), Rights::Data),
    ];
    let mut data = memory.all().clone();
    let without = |data: &mut Regions, region: Region| {
        data.remove(region).map_err(|e| alloc::format!("memory {region}: {e:?}"))
    };
    for (region, rights) in image_parts {
        if let Some(region) = region {
            without(&mut data, region)?;
            map(region, rights).map_err(failed)?;
        }
    }
    for region in unmapped {
        without(&mut data, region.widened(4096))?;
    }
    let blob = blob.widened(4096);
    if !data.covers(&blob) {
        without(&mut data, blob)?;
        map(blob, Rights::Constant).map_err(failed)?;
    }
    for region in data.iter().filter_map(|region| region.aligned(4096)) {
        map(region, Rights::Data).map_err(failed)?;
    }
    let devices = gic.redistributors.iter().copied().chain([gic.distributor]).chain(uart);
    for region in devices {
        map(region.widened(4096), Rights::Device)
            .map_err(|error| alloc::format!("device at {region}: {error:?}"))?;
    }
    let root = space.root();
    // The tables are in use for ever.
    core::mem::forget(space);
    // SAFETY: the tables map the image, its stack, and everything else this function's callers use, at the
    // addresses they have; they are complete in memory (`enter_map` orders that).
    unsafe { boot::enter_map(root.0, el2::tcr(id::mmfr0())) };
    Ok(())
}
