//! `murder-route status`: the status of the running daemon.

use std::fmt::Write as _;
use std::io;

use clap::Args;
use serde_json::Value;

use super::{Common, Exit};
use crate::config::{self, DEFAULT_SOCKET};
use crate::doctor::probe::socket::{CONNECT_TIMEOUT, connect};
use crate::model::daemon_state::is_healthy;
use crate::routing::maps::STATUS_MAP;
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::netstring::Decoder;
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::{REPLY_LIMIT, Reply, Request};

/// Show the status of the running daemon.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 unknown recipients are refused, 75 they are deferred: a source is stale, \
                        never synchronised, held back or unreadable, or misses cannot be confirmed, \
                        1 no daemon answers, 64 usage, 78 configuration."
)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    common: Common,
    /// The endpoint of the daemon [default: the first endpoint of the configuration that speaks
    /// socketmap, else unix:/run/murder-route]
    #[arg(long, value_name = "ENDPOINT")]
    listen: Option<Endpoint>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let endpoint = match &self.listen {
            Some(endpoint) => endpoint.clone(),
            None => configured(&self.common)?,
        };
        let complain = |why: &dyn std::fmt::Display| complain!("murder-route: {endpoint}: {why}");
        let status = ask(&endpoint).map_err(|e| {
            complain(&no_answer(&e));
            Exit::No
        })?;
        let status = status.map_err(|why| {
            complain(&why);
            Exit::Temporary
        })?;
        if self.json {
            super::print(&format_args!("{status}\n"))?;
        } else {
            super::print(&format_status(&status))?;
        }
        let well = status["state"].as_str().is_some_and(is_healthy) && status["trouble"].is_null();
        if well { Ok(()) } else { Err(Exit::Temporary) }
    }
}

/// A user that may ask for the status may be unable to read all files of the configuration.
fn configured(common: &Common) -> Result<Endpoint, Exit> {
    let glance = config::glance(&common.overrides(&[])).map_err(|e| {
        complain!("murder-route: {e}");
        Exit::Config
    })?;
    let asked = |listen: &Listen| listen.protocols.contains(Protocol::Socketmap);
    Ok(match glance.listeners.into_iter().find(asked).map(|listen| listen.endpoint) {
        // Only systemd knows its path; the shipped unit has this one.
        None | Some(Endpoint::Systemd(_)) => Endpoint::Unix(DEFAULT_SOCKET.into()),
        Some(endpoint) => endpoint,
    })
}

/// Explains a missing answer, and what to do.
fn no_answer(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("no daemon answers: {error}; start it, or give its endpoint with --listen")
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot connect: {error}; run it as a user with write permission on the socket")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {} s; read the log of the daemon", CONNECT_TIMEOUT.as_secs())
        }
        io::ErrorKind::UnexpectedEof => "it closes the connection without an answer".to_owned(),
        _ => error.to_string(),
    }
}

/// Asks for the status. The inner error: the daemon has none. The outer error: no answer.
fn ask(endpoint: &Endpoint) -> io::Result<Result<Value, String>> {
    let mut stream = connect(endpoint)?;
    let mut request = Vec::new();
    Request { map: STATUS_MAP.as_bytes(), key: b"" }.encode_into(&mut request);
    stream.write_all(&request)?;
    let mut replies = Decoder::new(REPLY_LIMIT);
    let mut piece = [0; 4096];
    loop {
        match replies.next_frame() {
            Some(Ok(payload)) => {
                return match Reply::parse(payload) {
                    Reply::Ok(json) => {
                        serde_json::from_str(&json).map(Ok).map_err(io::Error::other)
                    }
                    Reply::NotFound => {
                        Err(io::Error::other("it has no status; it may be an older murder-route"))
                    }
                    Reply::Temp(why) => Ok(Err(why)),
                };
            }
            Some(Err(e)) => {
                let what = format!("it does not speak socketmap and is not murder-route: {e}");
                return Err(io::Error::other(what));
            }
            None => {}
        }
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        replies.push(piece.get(..read).unwrap_or_default());
    }
}

fn format_status(status: &Value) -> String {
    let mut text = String::new();
    let text_of = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(crate::doctor::judge::one_line(text)),
        other => Some(other.to_string()),
    };
    let mut line = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{what:<16}{value}");
        }
    };
    line("state", text_of(&status["state"]));
    for source in status["sources"].as_array().into_iter().flatten() {
        let name = text_of(&source["source"]).unwrap_or_default();
        let state = text_of(&source["state"]).unwrap_or_default();
        let doubt = text_of(&source["doubt"]).map_or_else(String::new, |why| format!(": {why}"));
        line("source", Some(format!("{name} {state}{doubt}")));
    }
    line("synchronised", text_of(&status["synchronised"]));
    line("stale since", text_of(&status["stale_since"]));
    line("last barrier", text_of(&status["barrier_age"]).map(|age| format!("{age} s ago")));
    line("master", text_of(&status["master"]));
    line("trouble", text_of(&status["trouble"]));
    line("names", text_of(&status["names"]));
    for (what, member) in
        [("missing", "missing"), ("unusable", "unusable"), ("reserved", "reserved")]
    {
        line(what, text_of(&status[member]).filter(|count| count != "0"));
    }
    for waiting in status["waiting"].as_array().into_iter().flatten() {
        let [mailbox, state, server] = ["mailbox", "state", "server"]
            .map(|member| text_of(&waiting[member]).unwrap_or_default());
        let seconds = waiting["seconds"].as_u64().unwrap_or_default();
        line(
            "",
            Some(format!("{mailbox} {state} on {server} for {seconds} s: ctl_mboxlist -m there")),
        );
    }
    for flip in status["flipping"].as_array().into_iter().flatten() {
        let mailbox = text_of(&flip["mailbox"]).unwrap_or_default();
        let [one, other] = [0, 1].map(|nth| text_of(&flip["servers"][nth]).unwrap_or_default());
        line("claimed twice", Some(format!("{mailbox} by {one} and {other}")));
    }
    line("connections", text_of(&status["connections"]));
    let lost = &status["log_lines_lost"];
    line("log lines lost", text_of(lost).filter(|_| lost.as_u64() != Some(0)));
    for (what, count) in status["counters"].as_object().into_iter().flatten() {
        line(what, text_of(count));
    }
    text
}
