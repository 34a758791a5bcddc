//! Fermata's own lines: the log, and the way out when nothing else works.

use core::fmt::{self, Write};

use super::{Console, FRAME, LOG, Mode, PATIENCE, PortId, Serial, mark};
use crate::addr::CpuId;

/// The longest log line, its end included; what is longer is cut and says so.
const LINE_BYTES: usize = 512;
const CUT: &[u8] = b"...";
const END: &[u8] = b"\r\n";

/// When and where a log line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Microseconds since boot.
    pub micros: u64,
    /// The CPU.
    pub cpu: CpuId,
}

/// One line in the making, on the stack: no allocation, and no lock while a value formats itself.
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
    cut: bool,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; LINE_BYTES], len: 0, cut: false }
    }

    fn push(&mut self, byte: u8) {
        if self.len < LINE_BYTES - CUT.len() - END.len() {
            self.bytes[self.len] = byte;
            self.len += 1;
        } else {
            self.cut = true;
        }
    }

    /// The whole line with its end.
    fn finish(&mut self) -> &[u8] {
        let cut = if self.cut { CUT } else { &[] };
        for part in [cut, END] {
            self.bytes[self.len..][..part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        &self.bytes[..self.len]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        printable(text, |byte| self.push(byte));
        Ok(())
    }
}

/// Passes text on as a terminal wants it: lines end with both characters, and no control byte gets through, since
/// names come from device trees and could carry any.
fn printable(text: &str, mut put: impl FnMut(u8)) {
    for byte in text.bytes() {
        match byte {
            b'\n' => END.iter().for_each(|&byte| put(byte)),
            b'\t' | b' '..=b'~' | 0x80.. => put(byte),
            _ => put(b'?'),
        }
    }
}

impl log::Log for Console {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut line = Line::new();
        // A line takes any text, so only a value that refuses to format itself can fail, and then half is shown.
        let _ = self.compose(&mut line, record);
        let mut ring = self.log.lock();
        line.finish().iter().for_each(|&byte| ring.push_over(byte));
        let first = mark(&self.sending, PortId(LOG));
        drop(ring);
        if first && let Some(bell) = self.bell.get() {
            bell();
        }
    }

    fn flush(&self) {}
}

impl Console {
    /// `[seconds cpu level] fermata: text`, so that "fermata: " and what is said stand together for programs.
    fn compose(&self, line: &mut Line, record: &log::Record<'_>) -> fmt::Result {
        let level = match record.level() {
            log::Level::Error => " error",
            log::Level::Warn => " warning",
            log::Level::Info => "",
            log::Level::Debug => " debug",
            log::Level::Trace => " trace",
        };
        if let Some(stamp) = self.stamp.get() {
            let Stamp { micros, cpu: CpuId(cpu) } = stamp();
            write!(line, "[{:4}.{:06} cpu{cpu}{level}] ", micros / 1_000_000, micros % 1_000_000)?;
        } else if !level.is_empty() {
            write!(line, "[{}] ", &level[1..])?;
        }
        write!(line, "fermata: {}", record.args())
    }

    /// The way out for a panic: writes straight to `serial`, waiting for it, and waits for no lock for ever. No other CPU
    /// writes to the line from now on, unless one died doing it. Starts with what the log still holds, if it can be had.
    pub fn force<'a>(&'a self, serial: &'a mut dyn Serial) -> Force<'a> {
        // Kept for good. It is not to be had if this CPU has it.
        if let Some(mux) = (0..PATIENCE).find_map(|_| self.mux.try_lock()) {
            core::mem::forget(mux);
        }
        let mut force = Force { serial, patience: PATIENCE };
        if self.mode() == Mode::Framed {
            force.byte(FRAME);
            force.byte(b'0');
        }
        END.iter().for_each(|&byte| force.byte(byte));
        if let Some(mut ring) = self.log.try_lock() {
            while let Some(byte) = ring.pop() {
                force.byte(byte);
            }
        }
        force
    }
}

/// A writer that owns the terminal because nothing else will use it again.
pub struct Force<'a> {
    serial: &'a mut dyn Serial,
    patience: u32,
}

impl Force<'_> {
    fn byte(&mut self, byte: u8) {
        let mut patience = self.patience;
        while self.serial.put(byte).is_err() {
            if patience == 0 {
                self.patience = 0;
                return;
            }
            patience -= 1;
            core::hint::spin_loop();
        }
    }
}

impl Write for Force<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        printable(text, |byte| self.byte(byte));
        Ok(())
    }
}
