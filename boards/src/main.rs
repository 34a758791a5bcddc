//! The Fermata image: it gives the portable core an architecture, a heap, a logger and last words.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use core::alloc::{GlobalAlloc, Layout};
    use core::fmt::Write;
    use core::ptr::NonNull;

    #[cfg(target_arch = "aarch64")]
    use arch_aarch64::start;
    #[cfg(target_arch = "loongarch64")]
    use arch_loongarch64::start;
    use buddy_system_allocator::Heap;
    use kernel::console::Console;
    use kernel::launch::Room;
    use kernel::start::Image;
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
                // SAFETY: the caller got `block` from `alloc` with this layout and gives it up (GlobalAlloc).
                unsafe { self.0.lock().dealloc(block, layout) };
            }
        }
    }

    /// Whether the heap has room: takes it, and gives it back.
    fn heap_has(Room { blocks, bytes }: Room) -> bool {
        let Some(blocks) = blocks.checked_sub(1) else { return true };
        let Ok(layout) = Layout::from_size_align(bytes, 1) else { return false };
        let Ok(block) = HEAP.0.lock().alloc(layout) else { return false };
        let has = heap_has(Room { blocks, bytes });
        // SAFETY: the block was allocated above with this layout, and nobody knows of it.
        unsafe { HEAP.0.lock().dealloc(block, layout) };
        has
    }

    unsafe extern "C" {
        static __image_start: u8;
        static __text_end: u8;
        static __rodata_end: u8;
        static __heap_start: u8;
        static __image_end: u8;
    }

    /// Where the boot code of the architecture continues, with the arguments it was entered with.
    #[unsafe(no_mangle)]
    extern "C" fn fermata_boot(a0: u64, a1: u64, a2: u64) -> ! {
        let [start, text_end, rodata_end, heap, end] = [
            &raw const __image_start,
            &raw const __text_end,
            &raw const __rodata_end,
            &raw const __heap_start,
            &raw const __image_end,
        ]
        .map(|symbol| symbol.expose_provenance());
        // SAFETY: the linker script reserves what is between the two symbols for the heap alone, and this runs once.
        unsafe { HEAP.0.lock().init(heap, end - heap) };
        if log::set_logger(&CONSOLE).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
        }
        let at = |address| start::physical(address).0;
        let image = Image {
            start: at(start),
            text_end: at(text_end),
            rodata_end: at(rodata_end),
            end: at(end),
            heap: heap_has,
        };
        start::boot_cpu([a0, a1, a2], image, &CONSOLE)
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
