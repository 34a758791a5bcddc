//! The console: a UART written by polling, one line at a time.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::arch::uart;
use crate::start::known;

/// A UART at an address.
struct Uart(u64);

static CONSOLE: Mutex<Uart> = Mutex::new(Uart(uart::DEFAULT));

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                uart::put(self.0, b'\r');
            }
            uart::put(self.0, byte);
        }
        Ok(())
    }
}

/// Uses the UART at `base` from here on.
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
    let base =
        held.as_ref().map_or_else(|| known().map_or(uart::DEFAULT, |machine| machine.uart), |uart| uart.0);
    let mut uart = Uart(base);
    let _ = writeln!(uart, "{text}");
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
