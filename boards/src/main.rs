//! The Fermata image: it gives the portable core an architecture, a heap, a logger and last words.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_arch = "aarch64")]
mod image {
    use core::alloc::{GlobalAlloc, Layout};
    use core::fmt::Write;
    use core::ptr::NonNull;

    use arch_aarch64::start::{self, Image};
    use buddy_system_allocator::Heap;
    use kernel::console::Console;
    use spin::Mutex;

    /// Largest block of the heap: 2^32 bytes.
    const ORDERS: usize = 33;

    static CONSOLE: Console = Console::new();

    /// The heap: guests' tables, vCPUs, stacks. Used while starting and when guests come and go.
    struct Allocator(Mutex<Heap<ORDERS>>);

    #[global_allocator]
    static HEAP: Allocator = Allocator(Mutex::new(Heap::empty()));

    // SAFETY: the buddy heap hands out disjoint blocks of at least the layout's size and alignment from memory
    // that is only its own, under a lock that no interrupt handler can re-enter (Fermata runs with interrupts
    // masked).
    unsafe impl GlobalAlloc for Allocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.0.lock().alloc(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            if let Some(block) = NonNull::new(block) {
                self.0.lock().dealloc(block, layout);
            }
        }
    }

    unsafe extern "C" {
        static __image_start: u8;
        static __text_end: u8;
        static __rodata_end: u8;
        static __heap_start: u8;
        static __image_end: u8;
    }

    /// Where the boot code of the architecture continues.
    #[unsafe(no_mangle)]
    extern "C" fn fermata_boot(tree: u64) -> ! {
        let image = Image {
            start: (&raw const __image_start).expose_provenance() as u64,
            text_end: (&raw const __text_end).expose_provenance() as u64,
            rodata_end: (&raw const __rodata_end).expose_provenance() as u64,
            end: (&raw const __image_end).expose_provenance() as u64,
        };
        let heap = (&raw const __heap_start).expose_provenance();
        // SAFETY: the linker script reserves what is between the two symbols for the heap alone, and this runs once.
        unsafe { HEAP.0.lock().init(heap, image.end as usize - heap) };
        if log::set_logger(&CONSOLE).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
        }
        start::boot_cpu(tree, image, &CONSOLE)
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        if let Some(mut serial) = start::emergency_serial() {
            let mut out = CONSOLE.force(&mut serial);
            // Nothing is left to do about an error here.
            let _ = writeln!(out, "fermata: panic on CPU {}: {info}", start::this_cpu().0);
            if let Some(machine) = start::machine() {
                let _ = machine.last_words(&mut out);
            }
            let _ = writeln!(out, "fermata: halted after a panic");
        }
        start::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is the Fermata image; it runs on bare metal. `cargo xtask run` builds and starts it.");
}
