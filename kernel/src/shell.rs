//! The monitor: a prompt on Fermata's own port.
//!
//! Commands run on whichever CPU took the key. They see the machine through [`Monitor`]: snapshots that are plain
//! values, and actions that are requests. Nothing here is on a guest's path, so it may allocate.

mod command;
mod edit;
mod table;
mod view;

use core::fmt::{self, Write};
use core::sync::atomic::{Ordering, fence};

use spin::Mutex;

use crate::console::{Console, PortId};
use edit::{Edit, Editor};

pub use view::{
    ActionError, Audit, CpuView, FpCounters, FpCpuView, FpSeatView, FpVcpuView, Monitor, VcpuState, VcpuView,
    VmState, VmView,
};

/// What stands before the cursor.
const PROMPT: &str = "fermata> ";

/// The prompt: reads keys from Fermata's port and answers there.
pub struct Shell {
    editor: Mutex<Editor>,
}

impl Default for Shell {
    fn default() -> Self {
        Self::new()
    }
}

impl Shell {
    /// A prompt at which nothing was typed.
    pub const fn new() -> Self {
        Self { editor: Mutex::new(Editor::new()) }
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
            let Some(mut editor) = self.editor.try_lock() else { return };
            while let Some(key) = console.get(PortId::FERMATA) {
                take(&mut editor, key, console, monitor);
            }
            drop(editor);
            fence(Ordering::SeqCst);
        }
    }
}

/// Lets the editor have a key and does what follows from it.
fn take(editor: &mut Editor, key: u8, console: &Console, monitor: &dyn Monitor) {
    let mut screen = Screen(console);
    match editor.key(key) {
        Edit::Nothing => {}
        Edit::Echo(byte) => screen.byte(byte),
        Edit::Erase(count) => (0..count).for_each(|_| screen.put(format_args!("\x08 \x08"))),
        Edit::Replace(erase) => {
            (0..erase).for_each(|_| screen.put(format_args!("\x08 \x08")));
            screen.put(format_args!("{}", editor.line()));
        }
        Edit::Abandon => screen.put(format_args!("^C\n{PROMPT}")),
        Edit::Run => {
            screen.put(format_args!("\n"));
            command::run(editor.line(), &mut screen, monitor);
            editor.next();
            screen.put(format_args!("{PROMPT}"));
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
