use alloc::collections::VecDeque;
use alloc::vec::Vec;

use kernel::dev::{self, Level, Uart as _};

use super::*;

/// The far end of a line, of which `room` is what it still takes.
#[derive(Default)]
struct Line {
    sent: Vec<u8>,
    room: usize,
    typed: VecDeque<u8>,
}

impl dev::Port for Line {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.room = self.room.checked_sub(1).ok_or(Full)?;
        self.sent.push(byte);
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        self.typed.pop_front()
    }
}

/// The kernel's emulated PL011 stands in for the physical one.
struct Emulated(dev::pl011::Pl011, Line);

impl Registers for &mut Emulated {
    fn read(&mut self, index: usize) -> u32 {
        self.0.access(index as u64 * 4, 4, None, &mut self.1) as u32
    }

    fn write(&mut self, index: usize, value: u32) {
        self.0.access(index as u64 * 4, 4, Some(value.into()), &mut self.1);
    }
}

#[test]
fn a_pl011_that_nobody_set_up_works_in_both_directions_and_interrupts() {
    let mut emulated = Emulated(dev::pl011::Pl011::new(), Line::default());
    let mut uart = Uart::new(Model::Pl011, &mut emulated);
    uart.interrupts(Interrupts::ReceiveAndTransmit);
    let mut taken = 0u8;
    while uart.put(taken).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 32, "the FIFO is on");
    assert_eq!(uart.get(), None);
    let poll = |emulated: &mut Emulated| emulated.0.poll(&mut emulated.1);
    assert_eq!(emulated.0.level(), Level::Low);
    emulated.1.room = 100;
    poll(&mut emulated);
    assert_eq!(emulated.0.level(), Level::High, "room");
    assert_eq!(emulated.1.sent, (0..32).collect::<Vec<u8>>());

    let mut again = Uart::new(Model::Pl011, &mut emulated);
    again.interrupts(Interrupts::Receive);
    assert_eq!(emulated.0.level(), Level::Low);
    emulated.1.typed.extend(*b"hi");
    poll(&mut emulated);
    assert_eq!(emulated.0.level(), Level::High, "input");
    let mut again = Uart::new(Model::Sbsa, &mut emulated);
    assert_eq!((again.get(), again.get(), again.get()), (Some(b'h'), Some(b'i'), None));
}

/// A 16550 reduced to what a driver can see: `fifo` bytes each way, received bytes with their line status.
struct Ns {
    fifo: usize,
    pending: Vec<u8>,
    sent: Vec<u8>,
    typed: VecDeque<(u8, u32)>,
    ier: u32,
    on: bool,
    stuck_timeout: bool,
}

impl Ns {
    fn new(fifo: usize) -> Self {
        let (pending, sent, typed) = Default::default();
        Self { fifo, pending, sent, typed, ier: 9, on: false, stuck_timeout: false }
    }
}

impl Registers for &mut Ns {
    fn read(&mut self, index: usize) -> u32 {
        match index {
            ns16550::DATA => {
                self.stuck_timeout = false;
                self.typed.pop_front().map_or(0, |(data, _)| data.into())
            }
            ns16550::IIR_FCR if self.stuck_timeout => 0xCC,
            ns16550::IIR_FCR if self.fifo > 1 && self.on => 0xC1,
            ns16550::LSR => {
                let received = self.typed.front().map_or(0, |(_, status)| 1 | status);
                received | u32::from(self.pending.is_empty()) << 5
            }
            _ => 0,
        }
    }

    fn write(&mut self, index: usize, value: u32) {
        match index {
            ns16550::DATA => {
                assert!(self.pending.len() < self.fifo, "overran the transmitter");
                self.pending.push(value as u8);
            }
            ns16550::IER => self.ier = value,
            ns16550::IIR_FCR => self.on = value & 1 != 0,
            _ => {}
        }
    }
}

#[test]
fn a_16550_is_filled_when_empty_and_refuses_otherwise() {
    for fifo in [1, 16] {
        let mut ns = Ns::new(fifo);
        let mut byte = 0;
        let mut uart = Ns16550::new(&mut ns);
        for _ in 0..3 {
            let mut taken = 0;
            while uart.put(byte).is_ok() {
                (byte, taken) = (byte + 1, taken + 1);
            }
            assert_eq!(taken, fifo);
            let ns = &mut uart.registers;
            ns.sent.append(&mut ns.pending);
        }
        uart.interrupts(Interrupts::ReceiveAndTransmit);
        assert_eq!((ns.sent, ns.ier), ((0..byte).collect::<Vec<u8>>(), 3));
    }
}

#[test]
fn a_16550_skips_broken_bytes_and_ends_an_empty_timeout() {
    let mut ns = Ns::new(16);
    ns.typed.extend([(0, 0x10), (b'a', 0), (b'b', 0x08), (b'c', 0x02)]);
    let mut uart = Ns16550::new(&mut ns);
    assert_eq!((uart.get(), uart.get(), uart.get()), (Some(b'a'), Some(b'c'), None));
    uart.registers.stuck_timeout = true;
    assert_eq!(uart.get(), None);
    assert!(!ns.stuck_timeout);
}

#[test]
fn nothing_answers_on_an_empty_bus() {
    struct Empty;
    impl Registers for Empty {
        fn read(&mut self, _: usize) -> u32 {
            0xFF
        }

        fn write(&mut self, _: usize, _: u32) {}
    }
    assert_eq!(Uart::new(Model::Ns16550, Empty).get(), None);
}

#[test]
fn a_window_accesses_its_registers_in_the_width_and_spacing_asked_for() {
    let mut memory = [0u32; 8];
    let base = memory.as_mut_ptr().expose_provenance();
    for (shift, width, value) in
        [(2, Width::Word, 0x1234_5678), (1, Width::Half, 0x5678), (0, Width::Byte, 0x78)]
    {
        // SAFETY: `memory` is 32 bytes, aligned to 4, ours, and outlives the window; the index stays below 8.
        let mut window = unsafe { Window::new(base, shift, width) };
        window.write(3, 0x1234_5678);
        assert_eq!((window.read(3), window.read(2)), (value, 0));
        window.write(3, 0);
    }
}

#[test]
fn device_trees_name_the_models() {
    assert_eq!(Model::from_compatible("arm,pl011"), Some(Model::Pl011));
    assert_eq!(Model::from_compatible("snps,dw-apb-uart"), Some(Model::Ns16550));
    assert_eq!(Model::from_compatible("arm,primecell"), None);
    assert_eq!((Width::from_bytes(4), Width::from_bytes(3)), (Some(Width::Word), None));
}
