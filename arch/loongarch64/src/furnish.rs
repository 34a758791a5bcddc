//! Everything that is in a guest's memory when it starts.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use kernel::addr::Gpa;
use kernel::layout::PlaceError;
use kernel::tree::Guest;

use crate::efi::{self, Contents, Use};
use crate::image::{Image, ImageError};
use crate::layout::{self, COMMAND_LINE, EFI_TABLES, FREE, TREE};
use crate::tree;

/// What goes where in memory that is zero otherwise, and where the guest starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Furniture<'a> {
    /// Bytes, and where they go.
    pub files: Vec<(Gpa, Cow<'a, [u8]>)>,
    /// The first instruction.
    pub entry: Gpa,
}

impl Furniture<'_> {
    /// The arguments of a kernel, in a0 to a2 (Documentation/arch/loongarch/booting in Linux): that there are EFI tables,
    /// the command line, and the system table.
    pub const ARGUMENTS: [u64; 3] = [1, COMMAND_LINE.start, EFI_TABLES.start];
}

/// Why a guest cannot be started.
#[derive(Debug, PartialEq)]
pub enum FurnishError {
    /// Its kernel is none.
    Kernel(ImageError),
    /// Its files do not fit into its memory.
    Place(PlaceError),
    /// Its device tree cannot be written.
    Tree(vm_fdt::Error),
}

impl fmt::Display for FurnishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => write!(f, "kernel: {error}"),
            Self::Place(error) => error.fmt(f),
            Self::Tree(error) => write!(f, "its device tree could not be made: {error}"),
        }
    }
}

/// Decides what is in the memory of `guest`, whose counter runs at `hz`: `kernel` and `initrd` are files. Where the guest
/// says its RAM disk is does not matter.
pub fn furnish<'a>(
    guest: &Guest<'_>,
    hz: u32,
    kernel: &'a [u8],
    initrd: Option<&'a [u8]>,
) -> Result<Furniture<'a>, FurnishError> {
    let image = Image::parse(kernel).map_err(FurnishError::Kernel)?;
    // The tree's size does not depend on where the RAM disk is, only on whether there is one.
    let mut guest = Guest { initrd: initrd.map(|_| Gpa(0)..Gpa(0)), ..guest.clone() };
    let size = tree::build(&guest, hz).map_err(FurnishError::Tree)?.len() as u64;
    let length = initrd.map(|bytes| bytes.len() as u64);
    let place = layout::place(guest.memory, &image, length, size).map_err(FurnishError::Place)?;
    guest.initrd = place.zip(length).map(|(at, length)| at..Gpa(at.0 + length));
    let blob = tree::build(&guest, hz).map_err(FurnishError::Tree)?;
    let mut files = Vec::new();
    for part in &image.parts {
        let bytes = kernel.get(part.bytes.clone()).unwrap_or_default();
        files.push((part.at, Cow::Borrowed(bytes)));
    }
    files.extend(place.zip(initrd).map(|(at, bytes)| (at, Cow::Borrowed(bytes))));
    let mut command_line = guest.bootargs.as_bytes().to_vec();
    command_line.push(0);
    files.push((Gpa(COMMAND_LINE.start), Cow::Owned(command_line)));
    files.push((Gpa(EFI_TABLES.start), Cow::Owned(tables(&guest, &image))));
    files.push((Gpa(TREE.start), Cow::Owned(blob)));
    Ok(Furniture { files, entry: image.entry })
}

/// The guest's EFI tables.
fn tables(guest: &Guest<'_>, image: &Image) -> Vec<u8> {
    let mut used = Vec::from([(0..FREE[0].start, Use::LoaderData), (image.extent(), Use::LoaderCode)]);
    used.extend(guest.initrd.iter().map(|initrd| (initrd.start.0..initrd.end.0, Use::LoaderData)));
    used.sort_unstable_by_key(|(range, _)| range.start);
    let memory = layout::memory(guest.memory);
    let contents =
        Contents { memory: &memory, used: &used, initrd: guest.initrd.clone(), tree: Gpa(TREE.start) };
    efi::build(Gpa(EFI_TABLES.start), &contents)
}

#[cfg(test)]
mod tests;
