//! What the bare-metal test guests share: start-up, MMU, vectors, console, GICv3, timers, PSCI, secondary vCPUs, a harness.
//!
//! A guest is an arm64 Image of a few kilobytes that runs at EL1 with the MMU on and an identity map. It is
//! [`guest!`]`(main)` and a `main` that calls [`report::test`] for each thing it shows; when `main` returns, a summary is
//! printed and the machine powers off through PSCI. Nothing here knows which hypervisor it runs under: the same images run
//! on plain QEMU, which is how they are judged themselves.
//!
//! The compiler never touches FP registers (the target is soft-float): they hold what [`fp`] puts there, across calls,
//! interrupts and all.
#![no_std]

pub mod args;
pub mod console;
pub mod cpu;
pub mod fp;
pub mod gic;
pub mod mmio;
pub mod psci;
pub mod report;
pub mod rng;
pub mod smp;
pub mod start;
pub mod timer;
pub mod trap;
pub mod tree;

/// Makes a bare-metal guest of a function `fn()`: the Image header, the entry and the panic handler.
///
/// The header is that of Linux `Documentation/arch/arm64/booting.rst`: text_offset 0, little-endian, 4 KiB pages, to be
/// placed anywhere.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        extern "C" fn guest_main() {
            $main()
        }

        /// Is the first byte of the image: its header, whose first instruction branches over it.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".head.text")]
        extern "C" fn _head() -> ! {
            core::arch::naked_asm!(
                "b 1f",
                ".long 0",
                ".quad 0",
                ".quad __image_size",
                ".quad 0xa",
                ".quad 0, 0, 0",
                ".ascii \"ARM\\x64\"",
                ".long 0",
                "1:",
                "adrp x1, {main}",
                "add x1, x1, :lo12:{main}",
                "b {start}",
                main = sym guest_main,
                start = sym $crate::start::primary,
            )
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::report::abort(format_args!("{info}"))
        }
    };
}
