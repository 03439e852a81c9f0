//! What a scenario has at hand: the murder, the mail server, the router, the world outside.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::clients::mail::{Outcome, Reply, Session};
use crate::clients::sink::Sink;
use crate::logs::{Logs, Mark};
use crate::murder::{Host, Murder};
use crate::postfix::{self, Delivery, Postfix};
use crate::root::Release;
use crate::router::{Daemon, Setup};
use crate::{Done, ensure, sandbox};

pub struct World {
    pub release: Release,
    pub logs: Logs,
    pub murder: Murder,
    pub postfix: Postfix,
    pub setup: Setup,
    pub daemon: Daemon,
    pub outside: Sink,
    pub serial: AtomicU32,
}

/// A message, not yet sent.
pub struct Message {
    /// Another one for each message: smtpd keeps what it was told of a pair of sender and recipient
    /// as long as it lives.
    pub sender: String,
    pub id: String,
    pub text: String,
}

/// A message in Postfix' hands.
pub struct Queued {
    pub id: String,
    pub queue_id: String,
    pub since: Mark,
}

impl World {
    /// A new message.
    pub fn message(&self) -> Message {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        message(&format!("m{serial}"))
    }

    /// What Postfix says to RCPT TO.
    pub fn rcpt(&self, recipient: &str) -> Done<Reply> {
        let mut session = Session::smtp(postfix::SMTP)?;
        session.command(&format!("MAIL FROM:<{}>", self.message().sender))?;
        session.command(&format!("RCPT TO:<{recipient}>"))
    }

    /// What the frontend's own lmtpd says to RCPT TO.
    pub fn frontend_lmtpd(&self, recipient: &str) -> Done<Reply> {
        let mut session = Session::lmtp(&self.murder.frontend.lmtp_socket())?;
        session.command("MAIL FROM:<probe@sender.test>")?;
        session.command(&format!("RCPT TO:<{recipient}>"))
    }

    /// Demands that Postfix refuses the recipient for good, as one nobody has.
    pub fn refused(&self, recipient: &str) -> Done {
        let reply = self.rcpt(recipient)?;
        let unknown = reply.code == 550 && reply.status() == "5.1.1";
        ensure!(unknown, "{recipient} should be refused: {reply}");
        Ok(())
    }

    /// Demands that Postfix puts the recipient off.
    pub fn put_off(&self, recipient: &str) -> Done {
        let reply = self.rcpt(recipient)?;
        ensure!(reply.is_temporary(), "{recipient} should be put off: {reply}");
        Ok(())
    }

    /// Waits until the router calls the recipient unknown: a change reaches the frontend's list with
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

    /// Waits until recipients are known and strangers refused again.
    pub fn recovers(&self) -> Done {
        sandbox::poll("the router to recover", 30, || {
            let known = self.rcpt("jane@example.org")?;
            ensure!(known.code == 250, "jane: {known}");
            self.refused("nobody@example.org")?;
            Ok(Some(()))
        })
    }

    /// Demands that recipients who exist are taken or put off.
    pub fn existing_are_not_refused(&self) -> Done {
        for recipient in ["jane@example.org", "Bob@Example.Net", "+shared/news@example.org"] {
            let reply = self.rcpt(recipient)?;
            ensure!(reply.code == 250 || reply.is_temporary(), "{recipient}: {reply}");
        }
        Ok(())
    }

    /// Hands a message to Postfix, which must take it for all the recipients.
    pub fn send(&self, to: &[&str]) -> Done<Queued> {
        let since = self.logs.mark();
        let message = self.message();
        let mut session = Session::smtp(postfix::SMTP)?;
        let Outcome { recipients, message: done } =
            session.send(&message.sender, to, &message.text)?;
        for (recipient, reply) in to.iter().zip(&recipients) {
            ensure!(reply.code == 250, "RCPT TO:<{recipient}>: {reply}");
        }
        let reply = done.first().ok_or("no answer to the message")?;
        ensure!(reply.code == 250, "message: {reply}");
        Ok(Queued { id: message.id, queue_id: postfix::queue_id(&reply.text)?, since })
    }

    /// Waits until the message is out of the queue, and demands that nothing bounced.
    pub fn delivered(&self, queued: &Queued) -> Done<Vec<Delivery>> {
        let attempts = postfix::wait_removed(&self.logs, queued.since, &queued.queue_id)?;
        let bounced = attempts.iter().any(|attempt| attempt.status == "bounced");
        ensure!(!bounced, "bounced: {attempts:?}");
        Ok(attempts)
    }

    /// Sends a message and demands that it is handed to this backend at the first attempt, and lies
    /// in this folder of this user (the admin's own view of the tree, if `user` is empty).
    pub fn arrives(&self, to: &str, backend: &Host, user: &str, folder: &str) -> Done {
        let context = |e| format!("{to} at {}: {e}", backend.name);
        let queued = self.send(&[to]).map_err(context)?;
        let attempts = self.delivered(&queued).map_err(context)?;
        let relay = format!("{0}[{0}]:2003", backend.address);
        let straight = matches!(&attempts[..], [one] if one.relay == relay && one.status == "sent");
        ensure!(straight, "{to} should go to {relay}: {attempts:?}");
        self.holds_once(backend, user, folder, &queued.id)
    }

    /// Demands that the message lies in the folder on this backend, once.
    pub fn holds_once(&self, backend: &Host, user: &str, folder: &str, id: &str) -> Done {
        let count = backend.imap(user)?.count(folder, id)?;
        ensure!(count == 1, "{count} copies of {id} in {folder} of {user:?} on {}", backend.name);
        Ok(())
    }
}

/// A message with an id of its own.
pub fn message(name: &str) -> Message {
    let id = format!("<{name}@sender.test>");
    let text = format!(
        "From: {name}@sender.test\r\n\
         To: somebody@example.org\r\n\
         Subject: {name}\r\n\
         Date: Mon, 1 Jan 2024 12:00:00 +0000\r\n\
         Message-ID: {id}\r\n\
         \r\n\
         A letter.\r"
    );
    Message { sender: format!("{name}@sender.test"), id, text }
}
