//! The router decides about each recipient as the real lmtpd does, under every variant of imapd.conf.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use super::kept;
use crate::clients::mail::Session;
use crate::names_only::{NamesOnly, Variant, data};
use crate::root::Release;
use crate::router::{Lookup, Setup};
use crate::world::{World, message};
use crate::{Done, ensure};

/// Minimum number of recipients for a meaningful comparison.
const RECIPIENTS: usize = 60;
const VARIANTS: usize = 6;

/// Result for a recipient in the words of differences.txt: `deliver`, `unknown`, `refused` or `temporary`.
struct Fate {
    word: &'static str,
    /// With `deliver`, the backend, if the message could be followed to it.
    server: Option<String>,
}

/// Recorded answers of the lmtpd of a release, from tests/data/recipients, and the name of the release in
/// differences.txt.
fn known(release: Release) -> (&'static str, &'static str) {
    match release {
        Release::V3_2 => ("answers-3.2.6.txt", "3.2"),
        Release::V3_6 | Release::V3_10 | Release::V3_12 => ("answers-3.6.1.txt", "3.6"),
    }
}

/// lmtpd's reply to RCPT, in the form of the tables, and the result.
struct Answer {
    reply: String,
    fate: Fate,
}

/// Compares all recipients under all variants.
pub fn same_as_lmtpd(world: &World) -> Done {
    let variants = Variant::all()?;
    let recipients = data("recipients.txt")?;
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    ensure!(recipients.len() >= RECIPIENTS, "only {} recipients", recipients.len());
    ensure!(variants.len() >= VARIANTS, "only {} variants", variants.len());
    let (table, release) = known(world.release);
    let recorded = BTreeSet::from_iter(data(table)?);
    let documented = documented(release)?;

    let names = NamesOnly::start(&variants, world.release, world.murder.cyrus)?;
    let lookups = look_up(&variants, &recipients, world)?;
    let mut answers = String::new();
    let mut surprises = Vec::new();
    let mut seen = BTreeSet::new();
    for (variant, lookups) in variants.iter().zip(&lookups) {
        let name = &variant.name;
        let mut lmtpd = variant.lmtpd()?;
        for (recipient, lookup) in recipients.iter().zip(lookups) {
            let answer = ask(&mut lmtpd, &names, recipient)?;
            let row = format!("{name}\t{recipient}\t{}", answer.reply);
            answers += &format!("{row}\n");
            // `cargo test` relies on these answers everywhere; this run verifies them.
            let as_before = recorded.contains(&row);
            // No mail server asks the router about an address without a domain.
            if !recipient.contains('@') {
                continue;
            }
            if !as_before {
                surprises.push(format!("{name}\t{recipient}\tnow says {}", answer.reply));
            }
            let (theirs, ours) = (answer.fate, Fate::of_lookup(lookup)?);
            let no_address = answer.reply.starts_with("501 ");
            if theirs.word == ours.word || no_address && ours.word == "refused" {
                // If lmtpd considers a recipient unknown and the router does not, lmtpd's catch-all gets
                // the message.
                let unknown = format!("*\t{recipient}\tunknown\tdeliver");
                let differs = theirs.server.is_some() && theirs.server != ours.server;
                if differs && !documented.contains(&unknown) {
                    let servers = format!("{:?}\t{:?}", theirs.server, ours.server);
                    surprises.push(format!("{name}\t{recipient}\t{servers}"));
                }
                continue;
            }
            let difference = format!("{recipient}\t{}\t{}", theirs.word, ours.word);
            let known = [name, "*"].map(|variant| format!("{variant}\t{difference}"));
            match known.into_iter().find(|known| documented.contains(known)) {
                Some(known) => _ = seen.insert(known),
                None => surprises.push(format!("{name}\t{difference}")),
            }
        }
    }
    names.stop()?;
    fs::write(kept(world.release.number()).join("answers"), answers)?;
    for stale in documented.difference(&seen) {
        surprises.push(format!("{stale}\tis documented, but is not a difference"));
    }
    let count = surprises.len();
    let list = surprises.join("\n");
    ensure!(
        count == 0,
        "{count} undocumented differences (variant, recipient, lmtpd, router):\n{list}"
    );
    Ok(())
}

/// Number of recipients per process: each miss in a process waits for its own barrier, of which there are
/// only a few per second.
const AT_ONCE: usize = 32;

/// Looks up all recipients under each variant.
fn look_up(variants: &[Variant], recipients: &[&str], world: &World) -> Done<Vec<Vec<Lookup>>> {
    let setup = |v: &Variant| Setup::by_options(&v.imapd_conf(), world.release, world.murder.cyrus);
    let setups = variants.iter().map(setup).collect::<Done<Vec<_>>>()?;
    thread::scope(|scope| {
        let running: Vec<Vec<_>> = setups
            .iter()
            .map(|setup| {
                let parts = recipients.chunks(AT_ONCE);
                parts.map(|part| scope.spawn(move || setup.lookup(part))).collect()
            })
            .collect();
        let join = |parts: Vec<thread::ScopedJoinHandle<'_, Done<Vec<Lookup>>>>| {
            let mut lookups = Vec::new();
            for part in parts {
                lookups.extend(part.join().map_err(|_| "a lookup panicked")??);
            }
            Ok(lookups)
        };
        running.into_iter().map(join).collect()
    })
}

/// Rows of differences.txt for a release about recipients with a domain, without the release and the
/// reason.
fn documented(release: &str) -> Done<BTreeSet<String>> {
    let mut documented = BTreeSet::new();
    for line in data("differences.txt")? {
        let [of, variant, recipient, theirs, ours, _why] = line.split('\t').collect::<Vec<_>>()[..]
        else {
            return Err(format!("differences.txt: {line:?} does not have six columns").into());
        };
        let family = release.split('.').next();
        if ([release, "*"].contains(&of) || family == Some(of)) && recipient.contains('@') {
            documented.insert([variant, recipient, theirs, ours].join("\t"));
        }
    }
    Ok(documented)
}

/// Asks lmtpd. If it accepts the recipient, it must also pass a message on, which shows the backend.
fn ask(lmtpd: &mut Session, names: &NamesOnly, recipient: &str) -> Done<Answer> {
    names.received();
    let message = message("comparison");
    let outcome = lmtpd.send(&message.sender, &[recipient], &message.text)?;
    let [reply] = &outcome.recipients[..] else {
        return Err(format!("{recipient}: {outcome:?}").into());
    };
    let delivered = matches!(&outcome.message[..], [reply] if reply.code == 250);
    let received = names.received();
    let server = match &received[..] {
        [(server, _)] if delivered => Some((*server).to_owned()),
        // With lmtp_fuzzy_mailbox_match, 3.6 accepts a recipient and then refuses the message.
        [] if !delivered => None,
        _ => return Err(format!("{recipient}: {outcome:?}, received {received:?}").into()),
    };
    let word = match (reply.code, reply.status()) {
        (250, _) => "deliver",
        // A syntax error in the address: for the sender of the message the effect is equal.
        (550, "5.1.1") | (501 | 553, _) => "unknown",
        (550, "5.7.1") => "refused",
        (451, _) => "temporary",
        _ => return Err(format!("{recipient}: {reply}").into()),
    };
    let reply = format!("{} {}", reply.code, reply.status());
    Ok(Answer { reply, fate: Fate { word, server } })
}

impl Fate {
    fn of_lookup(lookup: &Lookup) -> Done<Self> {
        let word = match lookup.outcome.as_str() {
            "deliver" => "deliver",
            // Every domain is configured here: only an invalid address is foreign.
            "unknown" | "foreign" => "unknown",
            "refused" => "refused",
            "deferred" => "temporary",
            _ => return Err(format!("{lookup:?}").into()),
        };
        let server = (word == "deliver").then(|| lookup.server.clone());
        Ok(Self { word, server })
    }
}
