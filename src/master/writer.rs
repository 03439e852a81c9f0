//! The thread that writes the replica: it waits for the disk, so that the stream does not.
//!
//! [`WriterLogic`] decides; this module receives, begins, commits and logs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::state::FollowerState;
use crate::replica::SyncReport;
use crate::replica::store::{Error, ReplicaWriter};
use crate::replica::writer_logic::{Next, StreamInput, Write, WriterLogic};

/// State of the thread. It writes until the stream is gone.
pub(super) struct WriterThread {
    pub(super) state: Arc<FollowerState>,
    pub(super) dir: PathBuf,
    /// `None`: the replica cannot be written, or not yet.
    pub(super) writer: Option<ReplicaWriter>,
    pub(super) accept_after: Duration,
    pub(super) inputs: mpsc::Receiver<StreamInput>,
}

/// The stream is gone: the thread ends.
struct StreamGone;

impl WriterThread {
    pub(super) fn run(mut self) {
        let (meta, now) = (self.state.meta(), self.state.now());
        let mut logic = WriterLogic::new(self.accept_after, meta, now);
        loop {
            match self.write(&mut logic) {
                Ok(StreamGone) => return,
                // The file stays as it is, so that lookups can still be answered from it.
                Err(why) => {
                    let why = cannot_write(&why);
                    error!("{why}");
                    logic.abandon();
                    self.writer = None;
                    self.state.unwritten(why);
                }
            }
        }
    }

    /// Writes until the stream is gone or the store fails.
    fn write(&mut self, logic: &mut WriterLogic) -> Result<StreamGone, Error> {
        loop {
            let mut writer = match self.writer.take() {
                Some(writer) => writer,
                None => {
                    if self.wait_for_connection(logic).is_err() {
                        return Ok(StreamGone);
                    }
                    let (writer, anew) = ReplicaWriter::open_or_begin_anew(&self.dir)?;
                    if let Some(why) = anew {
                        warn!("the replica begins anew: {why}");
                    }
                    writer
                }
            };
            let next = logic.next(&writer, self.state.now_by_both(), &*self.state)?;
            let done = match next {
                Next::Receive => self.receive(logic),
                Next::Begin => match self.transact(&mut writer, logic) {
                    // The file had to grow, and can now.
                    Err(Error::Full(_)) if logic.may_repeat() => Ok(()),
                    done => done?,
                },
            };
            self.writer = Some(writer);
            if done.is_err() {
                return Ok(StreamGone);
            }
        }
    }

    /// Receives one input, and those that wait behind it and belong to the same transaction.
    fn receive(&mut self, logic: &mut WriterLogic) -> Result<(), StreamGone> {
        logic.feed(self.inputs.blocking_recv().ok_or(StreamGone)?);
        while logic.has_room()
            && let Ok(input) = self.inputs.try_recv()
        {
            logic.feed(input);
        }
        Ok(())
    }

    /// Receives up to the next connection. A replica that cannot be written has no use for the rest.
    fn wait_for_connection(&mut self, logic: &mut WriterLogic) -> Result<(), StreamGone> {
        while !logic.has_input() {
            let input = self.inputs.blocking_recv().ok_or(StreamGone)?;
            if matches!(input, StreamInput::Connected { .. }) {
                logic.feed(input);
            }
        }
        Ok(())
    }

    /// Runs one transaction.
    fn transact(
        &mut self,
        writer: &mut ReplicaWriter,
        logic: &mut WriterLogic,
    ) -> Result<Result<(), StreamGone>, Error> {
        let mut txn = writer.begin()?;
        loop {
            match logic.write(&mut txn, self.state.now_by_both(), &*self.state)? {
                Write::Receive => {
                    if let Err(gone) = self.receive(logic) {
                        return Ok(Err(gone));
                    }
                }
                Write::Drop => return Ok(Ok(())),
                Write::Commit { to_disk: true } => break txn.commit_to_disk()?,
                Write::Commit { to_disk: false } => break txn.commit()?,
            }
        }
        let report = logic.committed(writer, self.state.now(), &*self.state)?;
        if let Some((report, master)) = report {
            self.log_full_sync(&report, &master);
        }
        Ok(Ok(()))
    }

    fn log_full_sync(&self, report: &SyncReport, master: &str) {
        let SyncReport { listed, new, back, changed, removed, missed, .. } = report;
        if let Some(held_back) = &report.held_back {
            error!("full sync from {master} not applied: {held_back}");
            return;
        }
        info!(
            "full sync from {master} applied: {listed} names, {new} new, {back} back, \
             {changed} changed, {removed} removed"
        );
        if *missed > 0 {
            let examples: Vec<_> = report.examples.iter().map(ToString::to_string).collect();
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

/// Text of an error that keeps the replica from being written.
pub(super) fn cannot_write(why: &Error) -> String {
    format!("the replica cannot be written: {why}")
}
