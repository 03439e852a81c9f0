//! `murder-route dump`: the whole list in internal names.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::services::stored;
use super::{Common, Exit};
use crate::model::list::{Lookup, MailboxList};
use crate::model::name::MailboxName;
use crate::model::record::{Record, State};
use crate::resolver::Resolver;

/// Print the whole mailbox list in internal names.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0, 75 the list cannot be read, 64 usage, 78 configuration.")]
pub(super) struct Dump {
    #[command(flatten)]
    common: Common,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Dump {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = self.common.settings()?;
        let replica = stored(&settings).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::System
        })?;
        let list = Resolver::new(settings, replica).lists;
        let mut out = BufWriter::new(io::stdout().lock());
        let mut written = Ok(());
        let read = list.each(b"", &mut |name, record| {
            // A walk shows missing names as reserved ones. They have no record.
            if record.state == State::Reserved && matches!(list.lookup(name), Lookup::Unsure(_)) {
                return ControlFlow::Continue(());
            }
            written = self.print(&mut out, name, record);
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match written.and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => {
                complain!("murder-route: {e}");
                return Err(Exit::System);
            }
            Ok(()) => {}
        }
        read.map_err(|why| {
            complain!("murder-route: {why}");
            Exit::Temporary
        })
    }

    fn print(&self, out: &mut impl Write, name: &MailboxName, record: &Record) -> io::Result<()> {
        if self.json {
            let object = json!({
                "mailbox": String::from_utf8_lossy(name.as_bytes()),
                "state": record.state.as_str(),
                "server": record.server,
                "partition": record.partition,
            });
            return writeln!(out, "{object}");
        }
        let server = record.server.as_deref().unwrap_or("-");
        writeln!(out, "{name}\t{}\t{server}\t{}", record.state.as_str(), record.partition)
    }
}
