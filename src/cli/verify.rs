//! `murder-route verify`: reports everything wrong in a mailboxes.db.

use std::path::PathBuf;

use clap::Args;

use super::{Common, Exit};
use crate::lists::mailboxes_db::verify;
use crate::os::regular_file;

/// Read a whole mailboxes.db and report everything wrong with it.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing is wrong, 65 something is, or the file cannot be read, \
                        64 usage, 78 configuration."
)]
pub(super) struct Verify {
    /// The file [default: --mailboxes-db, or that of the configuration]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Exit> {
        let named = self.file.clone().or_else(|| self.common.mailboxes_db.clone());
        let path = match named {
            Some(path) => path,
            None => self.configured()?,
        };
        if let Err(e) = regular_file::open(&path) {
            complain!("murder-route: {}: cannot be read: {e}", path.display());
            return Err(Exit::Data);
        }
        let report = verify::file(&path);
        super::print(&report)?;
        if report.problems.is_empty() { Ok(()) } else { Err(Exit::Data) }
    }

    /// Returns the list of the configuration.
    fn configured(&self) -> Result<PathBuf, Exit> {
        self.common.settings()?.mailboxes_db.ok_or_else(|| {
            complain!(
                "murder-route: the configuration reads no mailboxes.db (`source`); name a FILE to verify"
            );
            Exit::Usage
        })
    }
}
