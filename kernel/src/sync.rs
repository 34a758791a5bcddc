//! Atomics and the lock of everything that CPUs share, replaceable by a model checker's.
//!
//! `--cfg loom` swaps in loom's versions, which run a test under every interleaving and every value that the
//! memory model lets a load return. Code that talks across CPUs takes its atomics from here; code that merely
//! shares data behind a lock uses `spin` directly.

#[cfg(not(loom))]
mod imp {
    pub use core::sync::atomic;
    pub use spin::{Mutex, MutexGuard};
}

#[cfg(loom)]
mod imp {
    pub use loom::sync::MutexGuard;
    pub use loom::sync::atomic;

    /// A lock with the interface of `spin::Mutex`.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// Creates an unlocked lock.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock and holds it as long as the guard lives.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

pub use imp::{Mutex, MutexGuard, atomic};
