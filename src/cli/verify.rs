//! `murder-route verify`: everything wrong with a mailboxes.db.

use std::path::PathBuf;

use clap::Args;

use super::Exit;
use crate::mailbox_list::verify;

/// Read a whole mailboxes.db and report everything wrong with it.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 nothing is wrong, 65 something is, 64 usage.")]
pub(super) struct Verify {
    /// The file
    #[arg(long, value_name = "FILE", required = true)]
    mailboxes_db: PathBuf,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Exit> {
        let report = verify::file(&self.mailboxes_db);
        super::say(&report)?;
        if report.problems.is_empty() { Ok(()) } else { Err(Exit::Data) }
    }
}
