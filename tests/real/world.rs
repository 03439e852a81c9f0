//! The environment of a scenario: the Murder, the mail server, the router, the outside.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::clients::mail::{Outcome, Reply, Session};
use crate::clients::sink::Sink;
use crate::logs::{Line, Logs, Mark};
use crate::murder::{Host, Murder};
use crate::postfix::Postfix;
use crate::root::Release;
use crate::router::{Daemon, Setup};
use crate::{Done, ensure, sandbox};

/// SMTP address of the mail server.
pub const SMTP: &str = "127.0.1.31:25";

/// Destination of mail for other domains.
pub const OUTSIDE: &str = "127.0.1.41:25";

/// Domains of the Murder.
pub const DOMAINS: [&str; 2] = ["example.org", "example.net"];

/// Differences between mail servers that matter to scenarios: how they log deliveries.
pub trait Mta {
    /// The queue id in its reply to an accepted message.
    fn queue_id(reply: &str) -> Option<&str>;

    /// Attempts to deliver a queued message in a line of the log.
    fn attempts(line: &Line, queue_id: &str) -> Vec<Delivery>;

    /// Whether a line of the log says that the message has left the queue for good.
    fn is_removal(line: &Line, queue_id: &str) -> bool;

    /// Value of [`Delivery::relay`] for this backend.
    fn relay(backend: &Host) -> String;
}

/// Log entry for one recipient of one queued message.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub recipient: String,
    /// Destination of the attempt in the mail server's notation; with Postfix `127.0.1.11[127.0.1.11]:2003`
    /// or `none`.
    pub relay: String,
    /// In Postfix' words: `sent`, `deferred` or `bounced`.
    pub status: String,
}

/// The mail server is Postfix unless a scenario says otherwise.
pub struct World<M = Postfix> {
    pub release: Release,
    pub logs: Logs,
    pub murder: Murder,
    pub mail_server: M,
    pub setup: Setup,
    pub daemon: Daemon,
    pub outside: Sink,
    pub serial: AtomicU32,
}

/// A message, not yet sent.
pub struct Message {
    /// Different for each message: smtpd keeps the answer for a pair of sender and recipient for its whole
    /// lifetime.
    pub sender: String,
    pub id: String,
    pub text: String,
}

/// A message that the mail server has accepted.
pub struct Queued {
    pub id: String,
    pub queue_id: String,
    pub since: Mark,
}

impl<M: Mta> World<M> {
    /// A new message.
    pub fn message(&self) -> Message {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        message(&format!("m{serial}"))
    }

    /// The mail server's reply to RCPT TO.
    pub fn rcpt(&self, recipient: &str) -> Done<Reply> {
        let mut session = Session::smtp(SMTP)?;
        session.command(&format!("MAIL FROM:<{}>", self.message().sender))?;
        session.command(&format!("RCPT TO:<{recipient}>"))
    }

    /// The reply of the frontend's own lmtpd to RCPT TO.
    pub fn frontend_lmtpd(&self, recipient: &str) -> Done<Reply> {
        let mut session = Session::lmtp(&self.murder.frontend.lmtp_socket())?;
        session.command("MAIL FROM:<probe@sender.test>")?;
        session.command(&format!("RCPT TO:<{recipient}>"))
    }

    /// Demands that the mail server refuses the recipient for good, as unknown.
    pub fn refused(&self, recipient: &str) -> Done {
        let reply = self.rcpt(recipient)?;
        let unknown = reply.code == 550 && reply.status() == "5.1.1";
        ensure!(unknown, "{recipient} should be refused: {reply}");
        Ok(())
    }

    /// Demands that the mail server defers the recipient.
    pub fn put_off(&self, recipient: &str) -> Done {
        let reply = self.rcpt(recipient)?;
        ensure!(reply.is_temporary(), "{recipient} should be deferred: {reply}");
        Ok(())
    }

    /// Waits until the router considers the recipient unknown: a change reaches the frontend's list with
    /// the next tick of the master, up to 5 s later.
    pub fn becomes_unknown(&self, recipient: &str) -> Done {
        sandbox::poll(&format!("{recipient} to be unknown"), 30, || {
            let lookup = self.setup.lookup_one(recipient)?;
            ensure!(lookup.outcome == "unknown", "{lookup:?}");
            Ok(Some(()))
        })
    }

    /// Waits until the router names this backend for the recipient.
    pub fn moves_to(&self, recipient: &str, backend: &Host) -> Done {
        sandbox::poll(&format!("{recipient} to be on {}", backend.name), 30, || {
            let lookup = self.setup.lookup_one(recipient)?;
            let answer = format!("OK lmtp:inet:{}:2003", backend.address);
            ensure!(lookup.server == backend.address && lookup.answer == answer, "{lookup:?}");
            Ok(Some(()))
        })
    }

    /// Waits until recipients are known and unknown ones refused again.
    pub fn recovers(&self) -> Done {
        sandbox::poll("the router to recover", 30, || {
            let known = self.rcpt("jane@example.org")?;
            ensure!(known.code == 250, "jane: {known}");
            self.refused("nobody@example.org")?;
            Ok(Some(()))
        })
    }

    /// Demands that existing recipients are accepted or deferred.
    pub fn existing_are_not_refused(&self) -> Done {
        for recipient in ["jane@example.org", "Bob@Example.Net", "+shared/news@example.org"] {
            let reply = self.rcpt(recipient)?;
            ensure!(reply.code == 250 || reply.is_temporary(), "{recipient}: {reply}");
        }
        Ok(())
    }

    /// Sends a message, which the mail server must accept for all recipients.
    pub fn send(&self, to: &[&str]) -> Done<Queued> {
        let since = self.logs.mark();
        let message = self.message();
        let mut session = Session::smtp(SMTP)?;
        let Outcome { recipients, message: done } =
            session.send(&message.sender, to, &message.text)?;
        for (recipient, reply) in to.iter().zip(&recipients) {
            ensure!(reply.code == 250, "RCPT TO:<{recipient}>: {reply}");
        }
        let reply = done.first().ok_or("no reply to the message")?;
        ensure!(reply.code == 250, "message: {reply}");
        Ok(Queued { id: message.id, queue_id: queue_id::<M>(&reply.text)?, since })
    }

    /// Waits until the message has left the queue, and demands that nothing bounced.
    pub fn delivered(&self, queued: &Queued) -> Done<Vec<Delivery>> {
        let attempts = wait_removed::<M>(&self.logs, queued.since, &queued.queue_id)?;
        let bounced = attempts.iter().any(|attempt| attempt.status == "bounced");
        ensure!(!bounced, "bounced: {attempts:?}");
        Ok(attempts)
    }

    /// Sends a message and demands that it is delivered to this backend at the first attempt, into this
    /// folder of this user (the admin's own view of the tree, if `user` is empty).
    pub fn arrives(&self, to: &str, backend: &Host, user: &str, folder: &str) -> Done {
        let context = |e| format!("{to} at {}: {e}", backend.name);
        let queued = self.send(&[to]).map_err(context)?;
        let attempts = self.delivered(&queued).map_err(context)?;
        let relay = M::relay(backend);
        let straight = matches!(&attempts[..], [one] if one.relay == relay && one.status == "sent");
        ensure!(straight, "{to} should go to {relay}: {attempts:?}");
        self.holds_once(backend, user, folder, &queued.id)
    }

    /// Demands that the message is in the folder on this backend, once.
    pub fn holds_once(&self, backend: &Host, user: &str, folder: &str, id: &str) -> Done {
        let count = backend.imap(user)?.count(folder, id)?;
        ensure!(count == 1, "{count} copies of {id} in {folder} of {user:?} on {}", backend.name);
        Ok(())
    }
}

/// The queue id in a mail server's reply to a message.
pub fn queue_id<M: Mta>(reply: &str) -> Done<String> {
    Ok(M::queue_id(reply).ok_or_else(|| format!("not queued: {reply}"))?.to_owned())
}

/// Waits until a message has left the queue for good. Returns every attempt to deliver it.
pub fn wait_removed<M: Mta>(logs: &Logs, since: Mark, queue_id: &str) -> Done<Vec<Delivery>> {
    let attempts = |lines: &[Line]| -> Vec<_> {
        lines.iter().flat_map(|line| M::attempts(line, queue_id)).collect()
    };
    logs.wait(&format!("{queue_id} to leave the queue"), since, 90, |lines| {
        lines.iter().any(|line| M::is_removal(line, queue_id)).then(|| attempts(lines))
    })
    .map_err(|e| {
        // The end of the log, which a failure shows, may no longer have these lines.
        let lines = logs.since(since, "");
        let of_it = lines.iter().filter(|line| line.text.contains(queue_id));
        let of_it: Vec<_> = of_it.map(|line| format!("{}: {}", line.program, line.text)).collect();
        format!("{e}; the log has:\n{}", of_it.join("\n")).into()
    })
}

/// A message with a unique id.
pub fn message(name: &str) -> Message {
    let id = format!("<{name}@sender.test>");
    let text = format!(
        "From: {name}@sender.test\r\n\
         To: somebody@example.org\r\n\
         Subject: {name}\r\n\
         Date: Mon, 1 Jan 2024 12:00:00 +0000\r\n\
         Message-ID: {id}\r\n\
         \r\n\
         A message."
    );
    Message { sender: format!("{name}@sender.test"), id, text }
}
