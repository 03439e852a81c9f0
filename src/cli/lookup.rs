//! `murder-route lookup`: the answer that the daemon would give.

use std::io::{self, BufRead, BufReader, BufWriter, Write};

use clap::Args;
use serde_json::json;

use super::sources::Sources;
use super::{Common, Exit};
use crate::resolver::Resolver;
use crate::routing::maps::{BUILT_IN, Map};
use crate::routing::route::{Decision, Route};

/// Look recipients up, as the daemon would.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 all are routed, 75 any is deferred, 1 any is not routed for \
                        another reason, 64 usage, 78 configuration."
)]
pub(super) struct LookupArgs {
    #[command(flatten)]
    common: Common,
    /// The map to answer as: lmtp, recipient, rcpt, host, canonical, exim, sendmail, decision or one of
    /// the configuration
    #[arg(long, value_name = "NAME", default_value = BUILT_IN[0])]
    map: String,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Show each step: address, rules, record, freshness, decision
    #[arg(long)]
    explain: bool,
    /// The recipients; `-` reads them from standard input, one per line
    #[arg(required = true, value_name = "RECIPIENT")]
    recipients: Vec<String>,
}

impl LookupArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = self.common.settings()?;
        let sources = Sources::open(settings)?;
        let resolver = &sources.resolver;
        let Some(map) = resolver.maps.get(&self.map) else {
            let known: Vec<&str> = resolver.maps.names().collect();
            complain!("murder-route: no map `{}`; there are {}", self.map, known.join(", "));
            return Err(Exit::Usage);
        };
        let mut printer = Printer {
            sources: &sources,
            name: &self.map,
            map,
            json: self.json,
            explain: self.explain,
            out: BufWriter::new(io::stdout().lock()),
            deferred: false,
            other: false,
        };
        match printer.all(&self.recipients) {
            Ok(()) if printer.deferred => Err(Exit::Temporary),
            Ok(()) if printer.other => Err(Exit::No),
            Ok(()) => Ok(()),
            // The reader of the output has closed it.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => {
                complain!("murder-route: {e}");
                Err(Exit::System)
            }
        }
    }
}

struct Printer<'a, W: Write> {
    sources: &'a Sources,
    /// Name of the map.
    name: &'a str,
    map: Map<'a>,
    json: bool,
    explain: bool,
    out: W,
    deferred: bool,
    other: bool,
}

impl<W: Write> Printer<'_, W> {
    fn all(&mut self, recipients: &[String]) -> io::Result<()> {
        for recipient in recipients {
            if recipient != "-" {
                self.one(recipient.as_bytes())?;
                continue;
            }
            let mut input = BufReader::new(io::stdin().lock());
            let mut line = Vec::new();
            while input.read_until(b'\n', &mut line)? > 0 {
                let end = line.trim_ascii_end().len();
                self.one(&line[..end])?;
                line.clear();
                // A program that writes one line at a time waits for each answer.
                if input.buffer().is_empty() {
                    self.out.flush()?;
                }
            }
        }
        self.out.flush()
    }

    fn one(&mut self, recipient: &[u8]) -> io::Result<()> {
        let mut steps = Vec::new();
        let steps_wanted = self.explain.then_some(&mut steps);
        let route = self.sources.route(self.name, recipient, steps_wanted);
        match &route.decision {
            Decision::Deliver(_) => {}
            Decision::Deferred(_) => self.deferred = true,
            Decision::Unknown | Decision::Refused(_) | Decision::Foreign => self.other = true,
        }
        let Resolver { maps, router, .. } = &self.sources.resolver;
        let text = String::from_utf8_lossy(recipient);
        let answer = maps.reply(self.map, router, &text, &route).to_string();
        if self.json {
            let mut object = json!({
                "recipient": text,
                "outcome": route.decision.as_str(),
                "mailbox": route.mailbox.as_ref().map(|name| String::from_utf8_lossy(name.as_bytes())),
                "server": route.server,
                "partition": route.partition,
                "answer": answer,
                "reason": route.why(),
            });
            if self.explain {
                object["steps"] = json!(steps);
            }
            return writeln!(self.out, "{object}");
        }
        writeln!(
            self.out,
            "{}: {}",
            crate::doctor::judge::one_line(&text),
            ResultLine {
                route: &route,
                answer: &answer,
                recipient,
                domain: router.domains.names().first().map(ToString::to_string),
            }
        )?;
        for step in steps {
            writeln!(self.out, "    {step}")?;
        }
        Ok(())
    }
}

/// The result as one line of text.
struct ResultLine<'a> {
    route: &'a Route,
    answer: &'a str,
    recipient: &'a [u8],
    domain: Option<String>,
}

impl std::fmt::Display for ResultLine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { route, answer, .. } = self;
        write!(f, "{} ({})", route.decision.as_str(), route.why())?;
        write!(f, " -> {}", answer.trim_end())?;
        // A user name instead of an address.
        if route.decision == Decision::Foreign && !self.recipient.contains(&b'@') {
            let domain = self.domain.as_deref().unwrap_or("example.org");
            let name = crate::doctor::judge::one_line(&String::from_utf8_lossy(self.recipient));
            write!(f, "; a mail server asks for the whole address, as {name}@{domain}")?;
        }
        Ok(())
    }
}
