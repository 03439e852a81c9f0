//! Schedules of simulations: generated from a seed, in steps that can be removed one by one.

use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// Number of a mailbox.
pub(crate) type Name = usize;

/// The backends.
pub(crate) const SERVERS: [&str; 3] = ["be1", "be2", "be3"];

/// Number of accounts: the mailboxes that the steps change have the numbers from 0 up to this.
pub(crate) const ACCOUNTS: usize = 6;

/// First number of a filler, a mailbox that only makes the list longer.
pub(crate) const FILLERS: usize = 100;

/// Number of a mailbox that is never created.
pub(crate) const STRANGER: Name = 99;

/// Returns the name of a mailbox.
pub(crate) fn text(name: Name) -> String {
    format!("user.u{name}")
}

/// A complete simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// Number of fillers. With fillers a list can lose many names.
    pub(crate) fillers: usize,
    /// Number of accounts at the start.
    pub(crate) accounts: usize,
    /// Whether connections log in with SASL, as the daemon does. Without it they start at the
    /// banner and continue with the commands.
    pub(crate) login: bool,
    /// `negative-cache`, in milliseconds. 0: none.
    pub(crate) negative_cache: u64,
    /// A second source: its lag in milliseconds, and whether it is asked first.
    pub(crate) slave: Option<(u64, bool)>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Milliseconds after the previous step.
    pub(crate) after: u64,
    pub(crate) what: What,
}

/// An event. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A mail server asks for a recipient.
    Ask(Name),
    /// A mail server asks several times.
    AskOften {
        name: Name,
        times: u64,
        every: u64,
    },
    Create {
        name: Name,
        server: usize,
        gap: u64,
    },
    Delete(Name),
    /// `gap` is the time between DELETE and RESERVE.
    Rename {
        name: Name,
        to: Name,
        gap: u64,
    },
    /// The mailbox is deleted and created again.
    Again {
        name: Name,
        gap: u64,
    },
    /// XFER.
    Move {
        name: Name,
        server: usize,
        gap: u64,
        fails: bool,
    },
    /// The mailbox is activated again, as when a right is set.
    Touch(Name),
    /// This number of fillers is deleted, one by one.
    TakeOut {
        fillers: usize,
    },
    /// The deleted fillers are created again.
    PutBack,
    /// Maximum network delay from now on.
    Slowness(u64),
    /// One in this number of packets is lost, and sent again. 0: none.
    Lossy(u64),
    /// All connections break.
    CutAll,
    /// One of the connections breaks.
    Cut(u64),
    /// The network passes nothing for this time.
    Block(u64),
    KillMaster {
        down: u64,
    },
    /// The master's host loses power: no connection is closed.
    Vanish {
        down: u64,
    },
    /// A backend deletes a name that the master does not have, and the master crashes.
    Crash {
        down: u64,
    },
    StopMaster {
        stopped: u64,
    },
    FullMaster {
        full: u64,
    },
    Bye,
    /// The master restarts with `kept` of a hundred names.
    LoseList {
        down: u64,
        kept: u64,
    },
    /// The master restarts with the lost names restored.
    FindList {
        down: u64,
    },
    /// The master restarts and removes reserved names.
    Recover {
        down: u64,
    },
    /// A backend sends the master all lost records of its mailboxes again.
    Push {
        server: usize,
    },
    /// Our clock is set, by this number of seconds.
    SetClock(i64),
    /// The list is copied to a slave.
    Copy,
    /// That slave becomes the master.
    Promote {
        down: u64,
    },
    /// Our process is killed.
    Kill {
        down: u64,
    },
    /// Our host loses power.
    PowerLoss {
        down: u64,
    },
    /// Duration of a commit on our disk.
    SlowDisk(u64),
    /// `murder-route replica accept`.
    Accept,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:>6} ms  {:?}", self.after, self.what)
    }
}

impl Schedule {
    /// Returns the setting `negative-cache`.
    pub(crate) fn negative_cache(&self) -> Option<Duration> {
        (self.negative_cache > 0).then(|| Duration::from_millis(self.negative_cache))
    }

    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let fillers = if random.one_in(8) { random.between(108, 140) as usize } else { 0 };
        let accounts = random.below(ACCOUNTS as u64) as usize;
        let login = random.one_in(8);
        let mut more = Random::new(seed ^ 0x6d);
        let negative_cache = if more.one_in(4) { more.pick(&[2_000, 5_000, 10_000]) } else { 0 };
        let slave = more.one_in(4).then(|| (more.pick(&[0, 100, 1_000, 4_000]), more.one_in(2)));
        let mut steps = Vec::new();
        let many = random.between(3, 30);
        // Few kinds of events that occur often produce more coincidences than many kinds do.
        let kinds = random.next() | random.next();
        let names = random.between(1, ACCOUNTS as u64);
        for _ in 0..many {
            let after = match random.below(12) {
                0..=5 => random.below(300),
                6..=8 => random.between(300, 3_000),
                9 | 10 => random.between(2_000, 16_000),
                _ => random.between(15_000, 90_000),
            };
            if kinds >> 50 & 3 == 3 && random.one_in(4) {
                match random.below(12) {
                    8 | 11 => silent(random, names, after, &mut steps),
                    9 | 10 => again_on_a_slow_line(random, names, after, &mut steps),
                    6 => pushed_again(random, fillers, after, &mut steps),
                    7 => recovered(random, names, after, &mut steps),
                    0 | 1 => reunion(random, names, after, &mut steps),
                    2 | 3 => last_words(random, names, after, &mut steps),
                    4 => left_alone(random, names, after, &mut steps),
                    _ => moved_and_away(random, names, &mut steps),
                }
                continue;
            }
            let (what, name) = some(random, kinds, names, fillers);
            steps.push(Step { after, what });
            // During the event.
            for _ in 0..random.below(3) {
                let after = if random.one_in(3) { random.below(3_000) } else { random.below(120) };
                let name = if random.one_in(3) { any(random, names, fillers) } else { name };
                let what = match random.one_in(3) {
                    true => {
                        let every = random.pick(&[10, 50, 100, 300]);
                        What::AskOften { name, times: random.between(3, 12), every }
                    }
                    false => What::Ask(name),
                };
                steps.push(Step { after, what });
            }
        }
        Self { seed, fillers, accounts, login, negative_cache, slave, steps }
    }
}

/// Returns a name to ask for.
fn any(random: &mut Random, names: u64, fillers: usize) -> Name {
    match random.below(8) {
        0 => STRANGER,
        1 | 2 if fillers > 0 => FILLERS + random.below(fillers as u64) as usize,
        _ => random.below(names) as usize,
    }
}

/// A connection breaks, and a mailbox is deleted and created again at about the time of the
/// reconnect.
fn reunion(random: &mut Random, names: u64, after: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    let lost = match random.below(5) {
        0 => What::CutAll,
        1 => What::Cut(0),
        2 => What::Cut(1),
        3 => What::KillMaster { down: 0 },
        _ => What::Kill { down: 0 },
    };
    steps.push(Step { after, what: lost });
    let after = random.pick(&[0, 5, 900, 1_000, 1_200, 1_400]) + random.below(200);
    let gap = random.between(300, 850);
    steps.push(Step { after, what: What::Again { name, gap } });
    let what =
        What::AskOften { name, times: random.between(10, 30), every: random.between(20, 60) };
    steps.push(Step { after: random.below(100), what });
}

/// A mailbox is moved or created while the master loses its list and gets it back. Its output
/// in between arrives late.
fn last_words(random: &mut Random, names: u64, after: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    let what = match random.one_in(2) {
        true => What::Move {
            name,
            server: random.below(SERVERS.len() as u64) as usize,
            gap: 9_000,
            fails: false,
        },
        false => What::Create { name, server: random.below(SERVERS.len() as u64) as usize, gap: 0 },
    };
    steps.push(Step { after, what });
    let (down, kept) = (0, 0);
    let after = random.pick(&[5, 100, 2_600, 5_000]) + random.below(200);
    steps.push(Step { after, what: What::LoseList { down, kept } });
    let after = random.between(1_000, 2_500);
    steps.push(Step { after, what: What::Lossy(2) });
    let what = What::AskOften { name, times: random.between(3, 12), every: random.between(5, 100) };
    steps.push(Step { after: random.below(100), what });
    let after = random.below(600);
    steps.push(Step { after, what: What::FindList { down: 0 } });
    steps.push(Step { after: random.below(10), what: What::Lossy(0) });
}

/// The master accepts no connection for the stream, but answers FINDs.
fn left_alone(random: &mut Random, names: u64, after: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    steps.push(Step { after, what: What::FullMaster { full: 30_000 } });
    steps.push(Step { after: 10, what: What::Cut(random.below(2)) });
    let server = random.below(SERVERS.len() as u64) as usize;
    let after = random.below(8_000);
    steps.push(Step { after, what: What::Create { name, server, gap: 0 } });
    let (after, gap) = (random.pick(&[100, 3_000, 13_100, 15_000]), random.between(300, 850));
    steps.push(Step { after, what: What::Again { name, gap } });
    steps.push(Step {
        after: random.below(100),
        what: What::AskOften { name, times: 10, every: 60 },
    });
}

/// The master hangs. A mail server asks for a mailbox that has just moved, and for names that
/// do not exist.
fn silent(random: &mut Random, names: u64, after: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    let server = random.below(SERVERS.len() as u64) as usize;
    steps.push(Step { after, what: What::Move { name, server, gap: 5, fails: false } });
    let stopped = random.pick(&[5_000, 12_000, 20_000]);
    steps.push(Step { after: random.between(300, 6_000), what: What::StopMaster { stopped } });
    let every = random.pick(&[100, 400, 900]);
    steps.push(Step { after: 5, what: What::AskOften { name, times: 12, every } });
    let name = STRANGER;
    steps.push(Step { after: 5, what: What::AskOften { name, times: 12, every: 900 } });
}

/// A mailbox is deleted and created again, and answers arrive late.
fn again_on_a_slow_line(random: &mut Random, names: u64, after: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    let server = random.below(SERVERS.len() as u64) as usize;
    steps.push(Step { after, what: What::Create { name, server, gap: 0 } });
    let gap = random.between(500, 850);
    steps.push(Step { after: random.between(14_000, 25_000), what: What::Again { name, gap } });
    let times = random.between(5, 12);
    let what = What::AskOften { name, times, every: random.between(60, 200) };
    steps.push(Step { after: random.below(100), what });
    let slow = What::Slowness(random.pick(&[400, 1_500, 4_000]));
    steps.push(Step { after: random.between(600, 1_400), what: slow });
    let what = What::AskOften { name, times, every: random.between(60, 200) };
    steps.push(Step { after: random.below(100), what });
    steps.push(Step { after: 6_000, what: What::Slowness(5) });
}

/// A mailbox has just moved, which the stream has not reported yet, when it is deleted and
/// created again.
fn moved_and_away(random: &mut Random, names: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    let server = random.below(SERVERS.len() as u64) as usize;
    let moving = random.between(100, 3_500);
    let what = What::Move { name, server, gap: moving, fails: false };
    steps.push(Step { after: random.between(11_000, 16_000), what });
    let (after, gap) = (moving + random.between(4, 300), random.between(300, 850));
    steps.push(Step { after, what: What::Again { name, gap } });
    steps.push(Step {
        after: random.below(100),
        what: What::AskOften { name, times: 10, every: 60 },
    });
}

/// The master is emptied. Its backends send it their mailboxes again, one after the other, the
/// last one late or never. In between, our clock is set or our process ends.
fn pushed_again(random: &mut Random, fillers: usize, after: u64, steps: &mut Vec<Step>) {
    let kept = random.pick(&[0, 0, 3, 50]);
    steps.push(Step { after, what: What::LoseList { down: random.below(2_000), kept } });
    let mut servers = [0, 1, 2];
    servers.rotate_left(random.below(3) as usize);
    for server in servers {
        let after = random.pick(&[1_000, 6_000, 15_000, 40_000, 70_000]);
        let between = random.pick(&[
            What::SetClock(3_600),
            What::SetClock(-3_600),
            What::Kill { down: 100 },
            What::PowerLoss { down: 2_000 },
            What::CutAll,
            What::Ask(STRANGER),
        ]);
        steps.push(Step { after: after / 2, what: between });
        steps.push(Step { after: after / 2, what: What::Push { server } });
        for _ in 0..4 {
            let name = match fillers {
                0 => random.below(ACCOUNTS as u64) as usize,
                fillers => FILLERS + random.below(fillers as u64) as usize,
            };
            let every = random.pick(&[300, 2_000, 9_000]);
            steps.push(Step { after: 5, what: What::AskOften { name, times: 8, every } });
        }
    }
}

/// The master restarts in the middle of an XFER, and removes the reserved name.
fn recovered(random: &mut Random, names: u64, after: u64, steps: &mut Vec<Step>) {
    let name = random.below(names) as usize;
    let server = random.below(SERVERS.len() as u64) as usize;
    let gap = random.pick(&[9_000, 30_000]);
    steps.push(Step { after, what: What::Move { name, server, gap, fails: random.one_in(4) } });
    let after = random.pick(&[5, 100, 3_000, 8_000]);
    steps.push(Step { after, what: What::Recover { down: random.pick(&[0, 900, 6_000]) } });
    let what = What::AskOften { name, times: random.between(10, 30), every: 700 };
    steps.push(Step { after: random.below(100), what });
}

/// Returns an event of these kinds about one of the first `names` accounts, and a name to ask
/// for meanwhile.
fn some(random: &mut Random, kinds: u64, names: u64, fillers: usize) -> (What, Name) {
    let name = random.below(names) as usize;
    let server = random.below(SERVERS.len() as u64) as usize;
    let short = random.pick(&[0, 1, 5, 30, 200, 700]);
    let down = random.pick(&[0, 100, 900, 2_000, 6_000, 20_000]);
    let mut kind = random.below(48);
    for _ in 0..20 {
        if kinds >> kind & 1 == 1 {
            break;
        }
        kind = random.below(48);
    }
    let what = match kind {
        0..=3 => What::Create { name, server, gap: short },
        4 | 5 => What::Delete(name),
        6..=8 => {
            let to = random.below(ACCOUNTS as u64) as usize;
            let what = What::Rename { name, to, gap: short };
            return (what, if random.one_in(2) { name } else { to });
        }
        9..=11 => What::Again { name, gap: short },
        12..=15 => {
            let gap = random.pick(&[0, 5, 60, 600, 3_000, 9_000]);
            What::Move { name, server, gap, fails: random.one_in(5) }
        }
        16 => What::Touch(name),
        17 if fillers > 0 => What::TakeOut { fillers: random.between(60, 140) as usize },
        18 if fillers > 0 => What::PutBack,
        17 | 18 => What::Ask(any(random, names, fillers)),
        19..=21 => What::Slowness(random.pick(&[0, 2, 5, 50, 400, 1_500, 4_000])),
        22 => What::CutAll,
        23 | 24 => What::Cut(random.below(4)),
        25 => What::Block(random.pick(&[50, 1_000, 5_000, 12_000, 40_000])),
        26 | 27 => What::KillMaster { down },
        28 if random.one_in(2) => What::Vanish { down },
        28 => What::Crash { down },
        29 => What::StopMaster { stopped: random.pick(&[50, 1_000, 5_000, 12_000, 40_000]) },
        30 => What::FullMaster { full: random.pick(&[1_000, 10_000, 30_000]) },
        31 => What::Bye,
        32 | 33 => What::LoseList { down, kept: random.pick(&[0, 0, 0, 3, 10, 50]) },
        34 | 35 => What::FindList { down },
        36 => What::Copy,
        37 => What::Promote { down },
        38 | 39 => What::Kill { down },
        40 => What::PowerLoss { down },
        41 => What::SlowDisk(random.pick(&[0, 1, 10, 100, 1_000, 4_000])),
        42 => What::Lossy(random.pick(&[0, 3, 10, 40])),
        43 => What::Recover { down },
        44 | 45 => What::Push { server },
        46 => What::SetClock(random.pick(&[3_600, -3_600, 100, -100_000, 50, 1_000_000])),
        _ => What::Accept,
    };
    (what, if random.one_in(3) { any(random, names, fillers) } else { name })
}
