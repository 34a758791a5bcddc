//! Says hello from each vCPU: the smallest guest.
#![no_std]
#![no_main]

use guests::report::Done;
use guests::start::machine;
use guests::{println, report, smp, timer};

guests::guest!(main);

fn main() {
    let machine = machine();
    println!(
        "hello: {} vCPU, {} KiB at {:#x}, args \"{}\"",
        machine.cpus,
        machine.ram_total >> 10,
        machine.ram,
        machine.args
    );
    smp::on_all(|cpu| {
        println!("hello: vCPU {cpu} is up at {} ticks of {} Hz", timer::now(), timer::frequency())
    });
    report::test("hello", || Ok(Done::Passed));
}
