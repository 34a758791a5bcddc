//! The monitor: a prompt on Fermata's own port.
//!
//! Commands run on whichever CPU took the key. They see the machine through [`Monitor`]: snapshots that are plain
//! values, and actions that are requests. Nothing here is on a guest's path, so it may allocate.

mod command;
mod edit;
mod import;
mod registers;
mod table;
mod view;

use core::fmt::{self, Write};
use core::sync::atomic::{Ordering, fence};

use spin::Mutex;

use crate::console::{Console, PortId};
use edit::{Edit, Editor};
use import::Import;

pub use registers::{write_differences, write_registers};
pub use view::{
    ActionError, Audit, CpuView, FpCounters, FpCpuView, FpSeatView, FpVcpuView, Monitor, VcpuState, VcpuView,
    VmState, VmView,
};

/// What stands before the cursor.
const PROMPT: &str = "fermata> ";

/// The prompt: reads keys from Fermata's port and answers there.
pub struct Shell {
    keyboard: Mutex<Keyboard>,
}

/// What was typed, and who is to have it.
struct Keyboard {
    editor: Editor,
    /// What takes lines in place of the prompt.
    import: Option<Import>,
}

impl Default for Shell {
    fn default() -> Self {
        Self::new()
    }
}

impl Shell {
    /// A prompt at which nothing was typed.
    pub const fn new() -> Self {
        Self { keyboard: Mutex::new(Keyboard { editor: Editor::new(), import: None }) }
    }

    /// Shows the prompt for the first time.
    pub fn start(&self, console: &Console) {
        Screen(console).put(format_args!("Type help for the commands.\n{PROMPT}"));
    }

    /// Takes the keys that wait, and runs the commands they complete. If another CPU is at it, that one takes them.
    pub fn poll(&self, console: &Console, monitor: &dyn Monitor) {
        while console.waiting(PortId::FERMATA) {
            // The key is in its ring before the lock is tried, and the ring is looked at after the lock was let go:
            // of two CPUs, either this one gets the lock or the other one sees the key.
            fence(Ordering::SeqCst);
            let Some(mut keyboard) = self.keyboard.try_lock() else { return };
            while let Some(key) = console.get(PortId::FERMATA) {
                keyboard.take(key, console, monitor);
            }
            drop(keyboard);
            fence(Ordering::SeqCst);
        }
    }
}

impl Keyboard {
    /// Lets the editor have a key and does what follows from it.
    fn take(&mut self, key: u8, console: &Console, monitor: &dyn Monitor) {
        let mut screen = Screen(console);
        match (self.editor.key(key), self.import.take()) {
            (Edit::Nothing, import) => self.import = import,
            (Edit::Abandon, None) => screen.put(format_args!("^C\n{PROMPT}")),
            (Edit::Abandon, Some(_)) => screen.put(format_args!("^C\nnothing was kept\n{PROMPT}")),
            (Edit::Run, Some(import)) => {
                // A screen that fails leaves nobody to tell.
                self.import = import.line(self.editor.line(), &mut screen, monitor).unwrap_or_default();
                self.editor.clear();
                if self.import.is_none() {
                    screen.put(format_args!("{PROMPT}"));
                }
            }
            // Nobody wants to see again what comes by the hundred.
            (_, Some(import)) => self.import = Some(import),
            (Edit::Echo(byte), None) => screen.byte(byte),
            (Edit::Erase(count), None) => screen.erase(count),
            (Edit::Replace(count), None) => {
                screen.erase(count);
                screen.put(format_args!("{}", self.editor.line()));
            }
            (Edit::Run, None) => {
                screen.put(format_args!("\n"));
                self.import = command::run(self.editor.line(), &mut screen, monitor);
                self.editor.next();
                if self.import.is_none() {
                    screen.put(format_args!("{PROMPT}"));
                }
            }
        }
    }
}

/// Fermata's port as a place to write to.
pub(crate) struct Screen<'a>(pub(crate) &'a Console);

impl Screen<'_> {
    fn byte(&mut self, byte: u8) {
        // Fermata's port forgets rather than refuse.
        let _ = self.0.put(PortId::FERMATA, byte);
    }

    /// Takes characters away at the end of the line.
    fn erase(&mut self, count: usize) {
        (0..count).for_each(|_| self.put(format_args!("\x08 \x08")));
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        // Fails only if a value refuses to format itself, and ours are numbers and strings.
        let _ = self.write_fmt(text);
    }
}

impl Write for Screen<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}
