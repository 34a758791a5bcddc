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

    /// Loom's atomics, the numbers made more thorough.
    ///
    /// Loom 0.7 compares an operation with the last one on the same atomic only. Where a thread loads and then
    /// exchanges, its own load hides the loads of other threads from its exchange, and orders in which they come
    /// later are never tried. So each operation here first counts on a second atomic, where every two operations
    /// conflict; relaxed, so that it orders nothing that the code under test does not order.
    pub mod atomic {
        use loom::sync::atomic as loom;
        pub use loom::{AtomicBool, Ordering, fence};

        macro_rules! thorough {
            ($name:ident, $number:ty) => {
                /// An atomic number as in `core`, with the operations the kernel uses.
                #[derive(Debug)]
                pub struct $name {
                    value: loom::$name,
                    count: loom::AtomicUsize,
                }

                impl $name {
                    /// Creates it.
                    pub fn new(value: $number) -> Self {
                        Self { value: loom::$name::new(value), count: loom::AtomicUsize::new(0) }
                    }

                    fn next(&self) -> &loom::$name {
                        self.count.fetch_add(1, Ordering::Relaxed);
                        &self.value
                    }

                    /// Stores a value.
                    pub fn store(&self, value: $number, order: Ordering) {
                        self.next().store(value, order);
                    }

                    /// Exchanges a value, if it is `old`.
                    pub fn compare_exchange_weak(
                        &self,
                        old: $number,
                        new: $number,
                        success: Ordering,
                        failure: Ordering,
                    ) -> Result<$number, $number> {
                        self.next().compare_exchange_weak(old, new, success, failure)
                    }
                }

                thorough!($name, $number, load);
                thorough!($name, $number, fetch_add, value);
                thorough!($name, $number, fetch_or, value);
                thorough!($name, $number, fetch_and, value);
                thorough!($name, $number, fetch_xor, value);
            };
            ($name:ident, $number:ty, $operation:ident $(, $value:ident)?) => {
                impl $name {
                    /// As in `core`.
                    pub fn $operation(&self, $($value: $number,)? order: Ordering) -> $number {
                        self.next().$operation($($value,)? order)
                    }
                }
            };
        }

        thorough!(AtomicU32, u32);
        thorough!(AtomicU64, u64);
    }
}

pub use imp::{Mutex, MutexGuard, atomic};
