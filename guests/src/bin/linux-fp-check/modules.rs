//! Vector code inside the kernel: RAID's modules run all of it when they are loaded, to find out what is fastest.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::arch::{MODULES, call};
use crate::{nanos, nap, number, say};

const AT_FDCWD: u64 = -100_i64 as u64;
/// The file is packed, and the kernel unpacks it (Linux `include/uapi/linux/module.h`).
const MODULE_INIT_COMPRESSED_FILE: u64 = 4;
const O_NONBLOCK: u64 = 0o4000;
/// A pause between two rounds, so that processes run with the registers that the kernel left them.
const PAUSE_NANOS: u64 = 20_000_000;

/// Loads and unloads the modules, at least once and until `end`, and counts rounds; tells whether the kernel did it all.
pub(crate) fn load_again_and_again(end: u64, rounds: &AtomicU64) -> bool {
    loop {
        for (file, name) in MODULES {
            let fd = call(number::OPENAT, [AT_FDCWD, file.as_ptr() as u64, 0, 0, 0, 0]);
            if fd < 0 {
                return failed("opening", name, fd);
            }
            let fd = fd as u64;
            let loaded =
                call(number::FINIT_MODULE, [fd, c"".as_ptr() as u64, MODULE_INIT_COMPRESSED_FILE, 0, 0, 0]);
            call(number::CLOSE, [fd, 0, 0, 0, 0, 0]);
            if loaded < 0 {
                return failed("loading", name, loaded);
            }
        }
        for (_, name) in MODULES.iter().rev() {
            let gone = call(number::DELETE_MODULE, [name.as_ptr() as u64, O_NONBLOCK, 0, 0, 0, 0]);
            if gone < 0 {
                return failed("unloading", name, gone);
            }
        }
        rounds.fetch_add(1, Relaxed);
        if nanos() >= end {
            return true;
        }
        nap(PAUSE_NANOS);
    }
}

fn failed(what: &str, name: &core::ffi::CStr, error: i64) -> bool {
    say(format_args!("fp-check: {what} {name:?} failed with {error}\n"));
    false
}
