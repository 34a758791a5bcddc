//! The device tree that a guest finds, as far as it says the same for every architecture.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use vm_fdt::{Error, FdtWriter};

use crate::addr::Gpa;

/// What differs from one guest to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// How many vCPUs it has.
    pub cpus: u32,
    /// How much memory it has, in bytes.
    pub memory: u64,
    /// Its command line.
    pub bootargs: &'a str,
    /// Where its initial RAM disk is, if it has one.
    pub initrd: Option<Range<Gpa>>,
}

impl Guest<'_> {
    /// Writes `/chosen`, with the console at the path `stdout`. Its size does not depend on where the RAM disk is. Fails
    /// only for a command line with a NUL in it.
    pub fn chosen(&self, fdt: &mut FdtWriter, stdout: &str) -> Result<(), Error> {
        let node = fdt.begin_node("chosen")?;
        fdt.property_string("bootargs", self.bootargs)?;
        fdt.property_string("stdout-path", stdout)?;
        if let Some(initrd) = &self.initrd {
            fdt.property_u64("linux,initrd-start", initrd.start.0)?;
            fdt.property_u64("linux,initrd-end", initrd.end.0)?;
        }
        fdt.end_node(node)
    }
}

/// Writes a node for memory in `range`, below a node with two cells for addresses and two for sizes.
pub fn memory(fdt: &mut FdtWriter, range: &Range<u64>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("memory@{:x}", range.start))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[range.start, range.end.saturating_sub(range.start)])?;
    fdt.end_node(node)
}

/// The strings of a property that has several.
pub fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|entry| entry.to_string()).collect()
}
