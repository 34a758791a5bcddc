//! `fp import`: a snapshot that is typed, line by line.

use alloc::string::{String, ToString};
use core::fmt::{self, Write};

use super::view::{ActionError, Monitor};
use crate::fp::lines::Reader;

/// An import under way. It holds at most [one snapshot](crate::fp::lines::LONGEST), and nothing is kept before all of it is
/// there.
pub(super) struct Import {
    vcpu: String,
    reader: Reader,
}

impl Import {
    /// Begins an import for a vCPU.
    ///
    /// # Errors
    /// There is no such vCPU.
    pub(super) fn new(vcpu: &str, monitor: &dyn Monitor) -> Result<Self, ActionError> {
        if monitor.vcpus().iter().any(|known| known.name == vcpu) {
            Ok(Self { vcpu: vcpu.to_string(), reader: Reader::default() })
        } else {
            Err(ActionError::NoSuchVcpu)
        }
    }

    /// Takes a line and says what is wrong with it, or how the import ended; returns the import if it goes on. An empty line
    /// says nothing.
    ///
    /// # Errors
    /// The screen failed, which ends it as well.
    pub(super) fn line(
        mut self,
        line: &str,
        out: &mut dyn Write,
        monitor: &dyn Monitor,
    ) -> Result<Option<Self>, fmt::Error> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(Some(self));
        }
        let vcpu = &self.vcpu;
        let snapshot = match self.reader.line(line) {
            Ok(None) => return Ok(Some(self)),
            Ok(Some(snapshot)) => snapshot,
            Err(error) if error.is_end() => {
                writeln!(out, "fp import {vcpu}: nothing was kept: {error}")?;
                return Ok(None);
            }
            Err(error) => {
                writeln!(out, "fp import {vcpu}: {error}")?;
                return Ok(Some(self));
            }
        };
        let length = snapshot.bytes().len();
        match monitor.keep_fp(vcpu, snapshot) {
            Ok(()) => writeln!(out, "fp import {vcpu}: kept a snapshot of {length} bytes")?,
            Err(error) => writeln!(out, "fp import {vcpu}: nothing was kept: {error}")?,
        }
        Ok(None)
    }
}
