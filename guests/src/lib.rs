//! What the bare-metal test guests share: start-up, exceptions, console, interrupts, timer, secondary vCPUs, a harness.
//!
//! A guest is an image of a few kilobytes that runs as a kernel does. It is [`guest!`]`(main)` and a `main` that calls
//! [`report::test`] for each thing it shows; when `main` returns, a summary is printed and the machine powers off. Nothing
//! here knows which hypervisor it runs under: the same images run on plain QEMU, which is how they are judged themselves.
//!
//! What differs between architectures is in [`arch`]; the other modules give it out under one name each, so that most
//! programs do not know where they run.
//!
//! The compiler never touches FP registers (the target is soft-float): they hold what [`fp`] puts there, across calls,
//! interrupts and all.
#![no_std]

#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64/mod.rs")]
pub mod arch;
pub mod args;
pub mod console;
pub mod cpu;
pub mod fp;
pub mod irq;
pub mod mmio;
pub mod power;
pub mod report;
pub mod rng;
pub mod smp;
pub mod start;
pub mod timer;
pub mod trap;
pub mod tree;

/// Makes a bare-metal guest of a function `fn()`: the entry and the panic handler.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        extern "C" fn guest_main() {
            $main()
        }

        $crate::head!(guest_main);

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::report::abort(format_args!("{info}"))
        }
    };
}
