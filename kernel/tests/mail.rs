//! Mailboxes and doorbells one step at a time; all orders of steps are modelled in `loom.rs`.

use kernel::addr::CpuId;
use kernel::mail::{Delivery, Doorbell, EventPending, Full, Kick, Mail, Mailbox, Phase, PowerOnError, Ring};

const HERE: CpuId = CpuId(3);
const THERE: CpuId = CpuId(61);

fn running() -> Doorbell {
    let doorbell = Doorbell::new(HERE);
    assert_eq!(doorbell.power_on(), Ok(HERE));
    doorbell.start();
    doorbell.run_on(HERE);
    doorbell
}

#[test]
fn only_the_first_message_kicks_until_all_are_taken() {
    let mailbox = Mailbox::with_room(3);
    assert!(mailbox.is_empty());
    assert_eq!(mailbox.post('a'), Ok(Kick::Needed));
    assert_eq!(mailbox.ask(THERE), Kick::NotNeeded);
    assert_eq!(mailbox.post('b'), Ok(Kick::NotNeeded));
    assert_eq!(mailbox.take(), Some(Mail::Item('a')));
    assert!(!mailbox.is_empty());
    assert_eq!(mailbox.post('c'), Ok(Kick::NotNeeded));
    let rest: Vec<_> = std::iter::from_fn(|| mailbox.take()).collect();
    assert_eq!(rest, [Mail::Item('b'), Mail::Item('c'), Mail::Ask(THERE)]);
    assert!(mailbox.is_empty());
    assert_eq!(mailbox.ask(HERE), Kick::Needed);
}

#[test]
fn a_full_mailbox_returns_the_message_and_still_hears_requests() {
    let mailbox = Mailbox::with_room(1);
    assert_eq!(mailbox.post(1), Ok(Kick::Needed));
    assert_eq!(mailbox.post(2), Err(Full(2)));
    for _ in 0..100 {
        assert_eq!(mailbox.ask(THERE), Kick::NotNeeded);
    }
    assert_eq!(std::iter::from_fn(|| mailbox.take()).count(), 2);
    assert_eq!(mailbox.post(3), Ok(Kick::Needed));
}

#[test]
fn only_the_first_ring_interrupts() {
    let doorbell = running();
    assert_eq!(doorbell.ring(), Ring::KickCpu(HERE));
    assert_eq!(doorbell.ring(), Ring::Nothing);
    assert_eq!(doorbell.sleep(), Err(EventPending));
    assert!(doorbell.take_event());
    assert!(!doorbell.take_event());
    assert_eq!(doorbell.ring(), Ring::KickCpu(HERE));
    doorbell.queue_on(THERE);
    assert_eq!(doorbell.ring(), Ring::Nothing, "it looks before it runs");
    doorbell.run_on(THERE);
    assert!(doorbell.take_event());
    assert_eq!(doorbell.ring(), Ring::KickCpu(THERE));
}

#[test]
fn a_wake_up_follows_a_vcpu_that_moved() {
    let doorbell = running();
    assert_eq!(doorbell.sleep(), Ok(()));
    assert_eq!(doorbell.ring(), Ring::WakeOn(HERE));
    // Before the message arrives the vCPU wakes by its timer, moves, looks and sleeps.
    doorbell.wake();
    doorbell.queue_on(THERE);
    doorbell.run_on(THERE);
    assert!(doorbell.take_event());
    assert_eq!(doorbell.sleep(), Ok(()));
    assert_eq!(doorbell.ring(), Ring::Nothing, "the message under way will do");
    assert_eq!(doorbell.deliver(HERE), Delivery::Forward(THERE));
    assert_eq!(doorbell.deliver(THERE), Delivery::Wake);
    assert_eq!((doorbell.phase(), doorbell.home()), (Phase::Queued, THERE));
}

#[test]
fn a_stale_wake_up_wakes_nobody() {
    let doorbell = running();
    assert_eq!(doorbell.sleep(), Ok(()));
    assert_eq!(doorbell.ring(), Ring::WakeOn(HERE));
    assert!(doorbell.ring_here(HERE), "its own CPU need not wait for the message");
    doorbell.run_on(HERE);
    assert!(doorbell.take_event());
    assert_eq!(doorbell.sleep(), Ok(()));
    assert_eq!(doorbell.deliver(HERE), Delivery::Stale);
    assert_eq!(doorbell.phase(), Phase::Sleeping);
    assert!(!doorbell.ring_here(THERE));
    assert_eq!(doorbell.ring(), Ring::WakeOn(HERE));
    assert_eq!(doorbell.deliver(HERE), Delivery::Wake);
}

#[test]
fn power_goes_on_once_and_off_keeps_what_is_pending() {
    let doorbell = Doorbell::new(THERE);
    assert_eq!(doorbell.ring(), Ring::Nothing);
    assert_eq!(doorbell.power_on(), Ok(THERE));
    assert_eq!(doorbell.power_on(), Err(PowerOnError::OnPending));
    doorbell.start();
    assert_eq!(doorbell.power_on(), Err(PowerOnError::AlreadyOn));
    doorbell.run_on(THERE);
    assert!(doorbell.has_event());
    doorbell.power_off();
    assert_eq!(doorbell.phase(), Phase::Off);
    assert_eq!(doorbell.power_on(), Ok(THERE));
    assert!(doorbell.has_event());
}
