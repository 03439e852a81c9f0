//! The thread that writes the replica: it waits for disks, so that the stream need not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::follower::{Shared, Wanted};
use crate::mupdate::Event;
use crate::replica::store::{Error, Place};
use crate::replica::{ChangeApplier, FullSync, Heard, Outcome, Transaction as _};

/// So many events that wait make one transaction, and a bunch more.
const BATCH: usize = 8192;

/// What the stream tells the writer.
pub(super) enum Told {
    /// A full list follows: its records, and [`Event::Listed`].
    Connected {
        /// The master, as its banner names it.
        master: String,
        /// Its release.
        release: String,
    },
    /// What came, in its order.
    Events(Vec<Event>),
    /// The connection is gone. Half a list is forgotten.
    Lost,
}

/// Writes until the stream is gone.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) place: Option<Place>,
    pub(super) accept_after: Duration,
    pub(super) told: mpsc::Receiver<Told>,
}

/// How a list or the changes after it ended.
enum End {
    /// The connection is gone.
    Lost,
    /// Another one is there.
    Connected { master: String, release: String },
    /// Nobody tells anything any more.
    Over,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut follower = ChangeApplier::new(self.accept_after, self.shared.now());
        let mut end = End::Lost;
        loop {
            end = match end {
                End::Over => return,
                End::Lost => self.next_connection(),
                End::Connected { master, release } => {
                    match self.follow(&mut follower, &master, &release) {
                        Ok(end) => end,
                        Err(why) => {
                            self.trouble(&why);
                            End::Lost
                        }
                    }
                }
            };
        }
    }

    /// Passes over what still comes of a connection that is of no use.
    fn next_connection(&mut self) -> End {
        loop {
            match self.told.blocking_recv() {
                Some(Told::Connected { master, release }) => {
                    return End::Connected { master, release };
                }
                Some(Told::Events(_) | Told::Lost) => {}
                None => return End::Over,
            }
        }
    }

    /// Nothing that can be answered is given up for it: the file stays as it is.
    fn trouble(&mut self, why: &Error) {
        let why = unwritten(why);
        error!("{why}");
        self.place = None;
        self.shared.unwritten(why);
    }

    fn follow(
        &mut self,
        follower: &mut ChangeApplier,
        master: &str,
        release: &str,
    ) -> Result<End, Error> {
        let mut place = match self.place.take() {
            Some(place) => place,
            None => {
                let (place, anew) = Place::open_or_begin_anew(&self.dir)?;
                if let Some(why) = anew {
                    warn!("the replica begins anew: {why}");
                }
                place
            }
        };
        let (outcome, rest) = match self.list(&mut place, follower, master, release)? {
            Ok(done) => done,
            Err(end) => {
                self.place = Some(place);
                return Ok(end);
            }
        };
        let (about, names) = place.about()?;
        follower.listed(&outcome, names, self.shared.now());
        self.shared.stored(about, names);
        self.say(&outcome, master);
        let end = self.changes(&mut place, follower, rest)?;
        self.place = Some(place);
        Ok(end)
    }

    /// Reads a full list, in one transaction. Also returns what came behind it at the same time.
    fn list(
        &mut self,
        place: &mut Place,
        follower: &mut ChangeApplier,
        master: &str,
        release: &str,
    ) -> Result<Result<(Outcome, Vec<Event>), End>, Error> {
        let mut change = place.begin()?;
        let mut listing = FullSync::begin(&change)?;
        loop {
            let events = match self.told.blocking_recv() {
                Some(Told::Events(events)) => events,
                Some(Told::Connected { master, release }) => {
                    return Ok(Err(End::Connected { master, release }));
                }
                Some(Told::Lost) => return Ok(Err(End::Lost)),
                None => return Ok(Err(End::Over)),
            };
            let (mut events, clock) = (events.into_iter(), SystemTime::now());
            while let Some(event) = events.next() {
                match event {
                    Event::Record(name, record) => {
                        listing.record(&mut change, &name, &record, clock)?;
                    }
                    Event::Listed => {
                        let passed = follower.passed(self.shared.now());
                        let heard = Heard { master, release, now: clock, passed };
                        let outcome = listing.finish(&mut change, &heard, self.accept_after)?;
                        // Before anybody can miss what it takes away.
                        self.shared.listed(&outcome);
                        change.commit_to_disk()?;
                        return Ok(Ok((outcome, events.collect())));
                    }
                    // The stream has neither before the end of its list.
                    Event::Deleted(_) | Event::Current { .. } => {}
                }
            }
        }
    }

    /// Applies what comes after the list, as much at a time as has come.
    fn changes(
        &mut self,
        place: &mut Place,
        follower: &mut ChangeApplier,
        rest: Vec<Event>,
    ) -> Result<End, Error> {
        let mut told = Some(Told::Events(rest));
        loop {
            let mut events;
            match told.or_else(|| self.told.blocking_recv()) {
                Some(Told::Events(first)) => events = first,
                Some(Told::Connected { master, release }) => {
                    return Ok(End::Connected { master, release });
                }
                Some(Told::Lost) => return Ok(End::Lost),
                None => return Ok(End::Over),
            }
            told = loop {
                match self.told.try_recv() {
                    Ok(Told::Events(more)) if events.len() < BATCH => events.extend(more),
                    Ok(other) => break Some(other),
                    Err(_) => break None,
                }
            };
            match self.apply(place, follower, &events) {
                // The file had to grow, and can now.
                Err(Error::Full(_)) => self.apply(place, follower, &events)?,
                other => other?,
            }
        }
    }

    fn apply(
        &mut self,
        place: &mut Place,
        follower: &mut ChangeApplier,
        events: &[Event],
    ) -> Result<(), Error> {
        let asked = events.iter().rev().find_map(|event| match event {
            Event::Current { asked } => Some(*asked),
            _ => None,
        });
        let change = |event: &Event| matches!(event, Event::Record(..) | Event::Deleted(_));
        let now = self.shared.now();
        let stored = self.shared.about();
        if events.iter().any(change) || (asked.is_some() && follower.wants_stamp(&stored, now)) {
            // Before anybody can miss the name.
            self.shared.changed(events);
            let clock = SystemTime::now();
            let mut change = place.begin()?;
            for event in events {
                if let Event::Record(name, record) = event {
                    let before = change.get(name)?;
                    self.shared.placed(name, before.as_ref(), record);
                }
                follower.apply(&mut change, event, clock)?;
            }
            let as_of = asked.map(|asked| self.shared.clock_at(asked));
            let (about, names) = follower.finish(&mut change, as_of, now, clock)?;
            if let Some(loss) = &about.held_back {
                self.shared.held_back(loss);
            }
            change.commit()?;
            self.shared.stored(about, names);
        }
        if let Some(asked) = asked {
            self.shared.current(asked);
            let (about, _) = place.about()?;
            if follower.wants_list(&about, self.shared.now()) {
                info!("asking the MUPDATE master for its list again: one is held back");
                self.shared.relist(Wanted::HeldBack);
            }
        }
        Ok(())
    }
}

impl Writer {
    fn say(&self, outcome: &Outcome, master: &str) {
        let Outcome { listed, new, back, changed, removed, missed, .. } = outcome;
        if let Some(held_back) = &outcome.held_back {
            error!("the list of {master} is not taken over: {held_back}");
            return;
        }
        info!(
            "the list of {master} is taken over: {listed} names, {new} new, {back} back, \
             {changed} changed, {removed} gone"
        );
        if *missed > 0 {
            let examples: Vec<_> = outcome.examples.iter().map(ToString::to_string).collect();
            warn!(
                "{missed} names have vanished from the list of {master} without being deleted ({}{}): \
                 their mail is deferred until they are back, or for {} s if it is the same master; \
                 if they exist, have their backends tell the master again (ctl_mboxlist -m); if the \
                 loss is meant: murder-route replica accept",
                examples.join(", "),
                if *missed > examples.len() as u64 { ", …" } else { "" },
                self.accept_after.as_secs()
            );
        }
    }
}

/// What is said of a replica that cannot be written.
pub(super) fn unwritten(why: &Error) -> String {
    format!("the replica cannot be written: {why}")
}
