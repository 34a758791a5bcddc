//! The console: a PL011, written by polling, one line at a time.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::mmio;

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;

/// A PL011 at an address.
struct Uart(u64);

static CONSOLE: Mutex<Uart> = Mutex::new(Uart(0x0900_0000));

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

impl Uart {
    fn put(&self, byte: u8) {
        while mmio::read32(self.0 + FR) & FR_TXFF != 0 {}
        mmio::write32(self.0 + DR, byte.into());
    }
}

/// Uses the PL011 at `base` from here on.
pub fn init(base: u64) {
    *CONSOLE.lock() = Uart(base);
}

/// Writes a line and waits for other vCPUs to finish theirs; not for use in interrupt handlers.
pub fn line(text: fmt::Arguments<'_>) {
    let mut uart = CONSOLE.lock();
    let _ = writeln!(uart, "{text}");
}

/// Writes a line at once, whatever another vCPU is writing: for the last words of a guest.
pub fn last_line(text: fmt::Arguments<'_>) {
    // Another vCPU may be in the middle of a line, and this vCPU too, if the fault was there: wait a little, then write.
    let held = (0..100_000).find_map(|_| CONSOLE.try_lock());
    let base = held.as_ref().map_or_else(|| crate::start::machine().uart, |uart| uart.0);
    let mut uart = Uart(base);
    let _ = writeln!(uart, "{text}");
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
