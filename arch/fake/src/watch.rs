//! The observer: what guests were promised, and whether they got it.
//!
//! It sees what a guest sees and what the hardware sees, and nothing of the hypervisor's own state: who is in a
//! guest, who waits for what, which interrupts are pending for whom since when, who asked for whose start.

use kernel::addr::Gpa;
use kernel::exit::Reply;
use kernel::mem::Region;

use crate::script::{IRQS, Plot, UART_IRQ};

/// How long a CPU may do nothing while a vCPU waits that it could run: a slice, and a few slow steps.
const CONSERVE: u64 = 2500;
/// How long a vCPU may go on after its guest ended, on a CPU that has to be told.
const LAST_BREATH: u64 = 1000;
/// How long it may take from the end of a guest until its memory is free.
const FUNERAL: u64 = 20_000;
/// After how long in one state a vCPU is sure to be seen in it by its peers.
const SURE: u64 = 2000;

/// A vCPU as the observer sees it.
#[derive(Debug, Default)]
pub struct Person {
    /// Whether it is on, as far as its guest knows.
    on: bool,
    /// How often it was started.
    starts: usize,
    /// Whether it was in the guest since it was started last: until then it may be said to be starting.
    seen: bool,
    /// Since when it is as `on` says.
    since: u64,
    /// Whether its registers are gone.
    dead: bool,
    /// Where it is in the guest, if it is.
    running: Option<usize>,
    /// When it last was in the guest.
    left: u64,
    /// Whether it waits for an interrupt, and until when.
    waiting: Option<Option<u64>>,
    /// Since when it takes interrupts; it does not if this is nothing.
    open: Option<u64>,
    /// When each of its interrupts became pending, or will.
    claims: [Option<u64>; IRQS],
    /// Starts that were asked for and have not happened.
    asks: Vec<Ask>,
    /// How many were asked for.
    asked: usize,
}

/// Somebody wants a vCPU started.
#[derive(Debug)]
struct Ask {
    entry: Gpa,
    arg: u64,
    /// When the asker was told that it is done.
    granted: Option<u64>,
}

/// What was sure about a vCPU when a peer asked something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sure {
    /// It was off, and nobody had asked for its start.
    Off(usize),
    /// It was on, for the so-manieth time.
    On(usize),
    /// It was changing.
    Nothing,
}

impl Person {
    /// Since when it should be on a CPU. It may be later than now.
    fn owed(&self) -> Option<u64> {
        if !self.on || self.dead || self.running.is_some() {
            return None;
        }
        let Some(until) = self.waiting else { return Some(self.left) };
        let woken = self.claims.iter().flatten().copied().chain(until).min()?;
        Some(woken.max(self.left))
    }

    /// The interrupt it should have taken, and since when.
    fn untaken(&self) -> impl Iterator<Item = (usize, u64)> {
        let claims = self.claims.iter().enumerate().filter(|_| self.on && !self.dead);
        claims.filter_map(|(irq, at)| Some((irq, (*at)?.max(self.open?).max(self.since))))
    }

    fn sure(&self, now: u64) -> Sure {
        let long = now > self.since + SURE || self.starts == 0;
        match self.on {
            true if self.seen => Sure::On(self.starts),
            true => Sure::Nothing,
            false if long && self.asks.is_empty() => Sure::Off(self.asked),
            false => Sure::Nothing,
        }
    }
}

/// A guest, from one start to its end.
#[derive(Debug)]
pub struct Life {
    /// Which guest.
    pub vm: usize,
    /// By vCPU.
    pub people: Vec<Person>,
    /// When it ended itself, if it did.
    pub ended: Option<u64>,
    /// When its memory was given back.
    pub retired: Option<u64>,
    /// Its memory.
    pub ram: Vec<Region>,
    /// The marks on its floating-point values.
    pub tags: Vec<u16>,
    /// What it sent to its UART.
    pub written: Vec<u8>,
    /// What it received.
    pub heard: Vec<u8>,
    /// How many of its scripts' deeds were done.
    pub deeds: u64,
    affinity: u64,
    patience: u64,
}

/// All guests there were.
#[derive(Debug, Default)]
pub struct Watch {
    /// In the order of their starts.
    pub lives: Vec<Life>,
    tags: u16,
}

/// A vCPU: of which life, and which.
pub type Who = (usize, usize);

type Verdict = Result<(), String>;

impl Watch {
    /// A guest is being built. Returns the number of its life.
    pub fn born(&mut self, vm: usize, plot: &Plot, vcpus: usize, ram: &[Region]) -> Result<usize, String> {
        for life in self.lives.iter().filter(|life| life.retired.is_none()) {
            if life.vm == vm {
                return Err(format!("vm {vm} was started while it runs"));
            }
            if ram.iter().any(|mine| life.ram.iter().any(|theirs| mine.overlaps(theirs))) {
                return Err(format!("vm {vm} was given memory of vm {}", life.vm));
            }
        }
        self.lives.push(Life {
            vm,
            people: (0..vcpus).map(|_| Person::default()).collect(),
            ended: None,
            retired: None,
            ram: ram.to_vec(),
            tags: Vec::new(),
            written: Vec::new(),
            heard: Vec::new(),
            deeds: 0,
            affinity: plot.affinity,
            patience: plot.patience,
        });
        Ok(self.lives.len() - 1)
    }

    /// How many lives of `vm` there were.
    pub fn count(&self, vm: usize) -> usize {
        self.lives.iter().filter(|life| life.vm == vm).count()
    }

    /// A mark that nobody has.
    pub fn new_tag(&mut self, life: usize) -> u16 {
        self.tags = self.tags % 0x7ffe + 1;
        self.lives[life].tags.push(self.tags);
        self.tags
    }

    /// The vCPU.
    pub fn person(&mut self, (life, index): Who) -> &mut Person {
        &mut self.lives[life].people[index]
    }

    /// Its registers were dropped.
    pub fn died(&mut self, who: Who) {
        self.person(who).dead = true;
    }

    /// The guest's address space is given up.
    pub fn retired(&mut self, life: usize, now: u64) -> Verdict {
        let life = &mut self.lives[life];
        if life.retired.replace(now).is_some() {
            return Err(format!("vm {} ended twice", life.vm));
        }
        match life.people.iter().position(|person| !person.dead) {
            Some(index) => Err(format!("vm {} ended before its vCPU {index}", life.vm)),
            None => Ok(()),
        }
    }

    /// The guest ends itself.
    pub fn ends(&mut self, life: usize, now: u64) {
        self.lives[life].ended.get_or_insert(now);
    }

    /// A vCPU enters the guest on `cpu`.
    pub fn entered(&mut self, (n, index): Who, cpu: usize, now: u64) -> Verdict {
        let life = &mut self.lives[n];
        let name = format!("vCPU {index} of vm {}", life.vm);
        if life.retired.is_some() || life.ended.is_some_and(|at| now > at + LAST_BREATH) {
            return Err(format!("{name} ran after the end of its guest"));
        }
        if life.affinity != 0 && life.affinity >> cpu & 1 == 0 {
            return Err(format!("{name} ran on CPU {cpu}, where it may not"));
        }
        let patience = life.patience;
        let person = &mut life.people[index];
        if !person.on {
            return Err(format!("{name} ran while it was off"));
        }
        if let Some(other) = person.running {
            return Err(format!("{name} ran on CPU {cpu} while it ran on CPU {other}"));
        }
        if let Some(since) = person.owed()
            && now > since + patience
        {
            return Err(format!("{name} was ready since {since} and runs only at {now}"));
        }
        (person.running, person.seen) = (Some(cpu), true);
        Ok(())
    }

    /// It leaves the guest.
    pub fn left(&mut self, who: Who, now: u64) {
        let person = self.person(who);
        person.running = None;
        person.left = now;
    }

    /// It has nothing to do until an interrupt or until a time, or it has.
    pub fn waits(&mut self, who: Who, waiting: Option<Option<u64>>) {
        self.person(who).waiting = waiting;
    }

    /// From now on it takes interrupts, or not.
    pub fn opens(&mut self, who: Who, open: Option<u64>) {
        self.person(who).open = open;
    }

    /// Its interrupt `irq` is pending from some time on, or not.
    pub fn claims(&mut self, who: Who, irq: usize, at: Option<u64>) {
        let claim = &mut self.person(who).claims[irq];
        *claim = match (*claim, at) {
            (Some(old), Some(new)) if irq != crate::script::HARD_IRQ && irq != crate::script::SOFT_IRQ => {
                Some(old.min(new))
            }
            _ => at,
        };
    }

    /// The line of the UART is up for this vCPU, or for nobody.
    pub fn line(&mut self, life: usize, target: Option<usize>, now: u64) {
        for (index, person) in self.lives[life].people.iter_mut().enumerate() {
            let claim = &mut person.claims[UART_IRQ];
            *claim = if target == Some(index) { Some(claim.unwrap_or(now)) } else { None };
        }
    }

    /// It takes an interrupt.
    pub fn took(&mut self, who: Who, irq: usize, now: u64) -> Verdict {
        let patience = self.lives[who.0].patience + SURE;
        let vm = self.lives[who.0].vm;
        let person = self.person(who);
        let since = person.untaken().find(|claim| claim.0 == irq);
        person.claims[irq] = None;
        match since {
            None => Err(format!("vCPU {} of vm {vm} took interrupt {irq}, which nobody sent", who.1)),
            Some((_, since)) if now < since => {
                Err(format!("vCPU {} of vm {vm} took interrupt {irq} before its time {since}", who.1))
            }
            Some((_, since)) if now > since + patience => {
                Err(format!("vCPU {} of vm {vm} took interrupt {irq} of {since} at {now}", who.1))
            }
            Some(_) => Ok(()),
        }
    }

    /// It switches itself off.
    pub fn off(&mut self, who: Who, now: u64) {
        let person = self.person(who);
        (person.on, person.since, person.open, person.waiting) = (false, now, None, None);
    }

    /// Somebody asks for its start.
    pub fn asks(&mut self, who: Who, entry: Gpa, arg: u64, now: u64) -> Sure {
        let person = self.person(who);
        let sure = person.sure(now);
        person.asked += 1;
        person.asks.push(Ask { entry, arg, granted: None });
        sure
    }

    /// What is sure about it.
    pub fn sure(&mut self, who: Who, now: u64) -> Sure {
        self.person(who).sure(now)
    }

    /// The asker is answered.
    pub fn answered(&mut self, who: Who, arg: u64, before: Sure, reply: Reply, now: u64) -> Verdict {
        let vm = self.lives[who.0].vm;
        let person = self.person(who);
        let mine = person.asks.iter().position(|ask| ask.arg == arg);
        let wrong = match (reply, mine) {
            (Reply::Done, Some(mine)) => {
                let twice = person.asks.iter().any(|ask| ask.granted.is_some());
                person.asks[mine].granted = Some(now);
                twice
            }
            (Reply::Done, None) => matches!(before, Sure::On(starts) if person.starts == starts),
            (Reply::AlreadyOn | Reply::OnPending, Some(mine)) => {
                person.asks.remove(mine);
                before == Sure::Off(person.asked - 1)
            }
            _ => true,
        };
        if wrong {
            return Err(format!("vCPU {} of vm {vm}, {before:?}: a start was answered {reply:?}", who.1));
        }
        Ok(())
    }

    /// A question for its state is answered.
    pub fn described(&mut self, who: Who, before: Sure, reply: Reply) -> Verdict {
        let person = self.person(who);
        let right = match before {
            Sure::On(starts) if person.on && person.starts == starts => reply == Reply::On,
            Sure::Off(asked) if !person.on && person.asked == asked => reply == Reply::Off,
            _ => matches!(reply, Reply::On | Reply::Off | Reply::Starting),
        };
        if right { Ok(()) } else { Err(format!("vCPU {}, {before:?}, was said to be {reply:?}", who.1)) }
    }

    /// Its registers are put in power-on state. The first start of the first vCPU is asked for by nobody.
    pub fn starts(&mut self, who: Who, entry: Gpa, arg: u64, now: u64) -> Verdict {
        let vm = self.lives[who.0].vm;
        let person = self.person(who);
        if person.on {
            return Err(format!("vCPU {} of vm {vm} was started while it is on", who.1));
        }
        let asked = person.asks.iter().position(|ask| (ask.entry, ask.arg) == (entry, arg));
        match asked {
            Some(mine) => drop(person.asks.remove(mine)),
            None if who.1 == 0 && person.starts == 0 => {}
            None => return Err(format!("vCPU {} of vm {vm} was started and nobody asked", who.1)),
        }
        person.starts += 1;
        person.seen = false;
        (person.on, person.since, person.left) = (true, now, now);
        (person.open, person.waiting) = (Some(now), None);
        Ok(())
    }

    /// What `cpu`, which has been waiting, should have run.
    pub fn idled(&self, cpu: usize, from: u64, now: u64) -> Option<String> {
        for life in self.lives.iter().filter(|life| life.ended.is_none()) {
            if life.affinity != 0 && life.affinity >> cpu & 1 == 0 {
                continue;
            }
            for (index, person) in life.people.iter().enumerate() {
                if let Some(since) = person.owed()
                    && now > since.max(from) + CONSERVE
                {
                    return Some(format!("vCPU {index} of vm {} was ready since {since}", life.vm));
                }
            }
        }
        None
    }

    /// What nobody will get any more, `grace` being how long one may still wait for it.
    pub fn debts(&self, now: u64, grace: fn(u64) -> u64) -> Option<String> {
        for life in &self.lives {
            let (vm, patience) = (life.vm, grace(life.patience));
            if life.ended.is_some_and(|at| life.retired.is_none() && now > at + FUNERAL.min(patience)) {
                return Some(format!("vm {vm} ended itself at {:?} and is still there", life.ended));
            }
            for (index, person) in life.people.iter().enumerate().filter(|_| life.ended.is_none()) {
                let name = format!("vCPU {index} of vm {vm}");
                if let Some(since) = person.owed().filter(|since| now > since + patience) {
                    return Some(format!("{name} is ready since {since} and does not run"));
                }
                if let Some((irq, since)) = person.untaken().find(|claim| now > claim.1 + patience) {
                    return Some(format!("{name} has interrupt {irq} pending since {since}"));
                }
                let granted = person.asks.iter().filter_map(|ask| ask.granted);
                if let Some(at) = granted.filter(|at| !person.dead && now > at + patience).min() {
                    return Some(format!("{name} was started at {at} and does not run"));
                }
            }
        }
        None
    }
}
