//! Where the physical console is, and how to reach it when everything else is broken.

use alloc::boxed::Box;

use kernel::console::Console;
use kernel::fdt::Tree;
use kernel::platform;
use spin::Once;

use crate::serial::{Model, Uart, Width, Window};

/// How to reach the console when everything else is broken.
static EMERGENCY: Once<Line> = Once::new();

/// A physical UART.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// What kind of UART it is.
    pub model: Model,
    /// The physical address of its registers.
    pub base: u64,
    /// By how many bits register numbers are shifted.
    pub shift: u32,
    /// How wide an access has to be.
    pub width: Width,
}

impl Line {
    /// The UART that `/chosen/stdout-path` names, if there is a driver for it.
    pub fn of(tree: &Tree<'_>) -> Option<Self> {
        let stdout = platform::stdout(tree).ok()??;
        let model = stdout.node.compatible().find_map(Model::from_compatible)?;
        let (shift, width) = model.layout();
        let shift = if stdout.shift != 0 { stdout.shift } else { shift };
        let width = stdout.width.and_then(Width::from_bytes).unwrap_or(width);
        Some(Self { model, base: stdout.registers.base().0, shift, width })
    }

    /// # Safety
    /// As for [`Window::new`], with registers at the line's address plus `offset`: they are a UART's, mapped as device
    /// memory, and nobody else drives it.
    unsafe fn open(self, offset: u64) -> Uart {
        // SAFETY: the caller's promise.
        let window = unsafe { Window::new(self.base.wrapping_add(offset) as usize, self.shift, self.width) };
        Uart::new(self.model, window)
    }
}

/// Puts the console on a line; it is also the one for the last words of a panic.
///
/// # Safety
/// The line is a UART's, whose registers are mapped as device memory at their address plus `offset` from now on, and
/// nobody else opens it.
pub unsafe fn attach(console: &Console, line: Line, offset: u64) {
    EMERGENCY.call_once(|| line);
    // SAFETY: the caller's promise.
    console.attach(Box::new(unsafe { line.open(offset) }));
}

/// The line that [`attach`] was given.
pub fn line() -> Option<Line> {
    EMERGENCY.get().copied()
}

/// The console's UART for the last words of a panic, if it was ever found.
///
/// # Safety
/// Its registers are mapped as [`attach`] was promised, and nobody drives the console any more.
pub unsafe fn emergency_serial(offset: u64) -> Option<Uart> {
    // SAFETY: the caller's promise.
    EMERGENCY.get().map(|line| unsafe { line.open(offset) })
}
