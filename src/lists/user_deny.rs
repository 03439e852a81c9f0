//! `user_deny.db`: users whose access to a service is blocked (`cyr_deny`, Cyrus `imap/userdeny_db.c`).
//!
//! `lmtpd` answers 450 or 451 4.2.1 for such a user. A missing database blocks no user, and an unreadable
//! one blocks the same users as before: `lmtpd` lets every user pass then.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::mailboxes_db::open_file::open_regular;
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::skip::verify::verify;
use crate::cyrusdb::skiplist::Replay;
use crate::cyrusdb::{Engine, RawRecord, detect, flat};
use crate::model::name::MailboxName;
use crate::os::pinned_path::PinnedPath;

/// Maximum age of the cached table.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Largest file read, in bytes: some 100,000 users.
const MAX_SIZE: u64 = 16 << 20;
/// Version of an entry (`USERDENY_VERSION`).
const VERSION: u32 = 2;

/// Users blocked by the database of this host. Shared by threads.
#[derive(Debug)]
pub struct UserDeny {
    at: Arc<PinnedPath>,
    service: String,
    created: Instant,
    /// Time at which the file was last checked, in milliseconds since `created`; 0: never.
    looked: AtomicU64,
    known: ArcSwap<DenyTable>,
}

/// Entries of the file as it was read.
#[derive(Debug, Default)]
struct DenyTable {
    identity: Option<FileVersion>,
    /// The service patterns of each user.
    users: HashMap<Vec<u8>, Vec<u8>>,
    trouble: Option<String>,
}

/// Device, inode, size, and time of the last change in seconds and nanoseconds.
type FileVersion = (u64, u64, u64, i64, i64);

impl UserDeny {
    /// Returns the database at this path, for a service of `cyrus.conf`. The file need not exist.
    pub(crate) fn open_at(at: Arc<PinnedPath>, service: impl Into<String>) -> Self {
        Self {
            at,
            service: service.into(),
            created: Instant::now(),
            looked: AtomicU64::new(0),
            known: ArcSwap::default(),
        }
    }

    /// Returns the database at this path, which is opened by the path each time.
    pub fn open(path: &Path, service: impl Into<String>) -> Self {
        Self::open_at(Arc::new(PinnedPath::at(path.to_owned())), service)
    }

    /// Whether the owner of this INBOX is blocked.
    pub fn denies(&self, inbox: &MailboxName) -> bool {
        self.look();
        let known = self.known.load();
        if known.users.is_empty() {
            return false;
        }
        // 2.x looks a dot up as it stands in the mailbox name.
        let Some(user) = inbox.user() else { return false };
        let as_in_name: Vec<u8> = user.iter().map(|b| if *b == b'.' { b'^' } else { *b }).collect();
        [user, as_in_name].iter().any(|user| {
            let services = known.users.get(user);
            services.is_some_and(|services| includes(services, self.service.as_bytes()))
        })
    }

    /// Returns the number of users with an entry.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn status(&self) -> std::result::Result<usize, String> {
        self.look();
        let known = self.known.load();
        match &known.trouble {
            Some(why) => Err(why.clone()),
            None => Ok(known.users.len()),
        }
    }

    fn look(&self) {
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let looked = self.looked.load(Relaxed);
        if looked != 0 && now.saturating_sub(looked) < MAX_AGE.as_millis() as u64 {
            return;
        }
        // One thread checks, the others use the cached table; but all threads make the first check.
        if self.looked.compare_exchange(looked, now, Relaxed, Relaxed).is_err() && looked != 0 {
            return;
        }
        let known = self.known.load();
        match self.read(known.identity) {
            Ok(None) => {}
            Ok(Some(read)) => self.known.store(Arc::new(read)),
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                self.known.store(Arc::default());
            }
            Err(error) => {
                let why = format!("{}: {error}", self.at.path().display());
                if known.trouble.as_ref() != Some(&why) {
                    tracing::warn!("{why}; users blocked by `cyr_deny` from now on get mail");
                    let users = known.users.clone();
                    let now = DenyTable { identity: None, users, trouble: Some(why) };
                    self.known.store(Arc::new(now));
                }
            }
        }
    }

    /// Reads the file; `None`: it has not changed.
    fn read(&self, before: Option<FileVersion>) -> Result<Option<DenyTable>> {
        let (mut file, metadata) = open_regular(&self.at)?;
        let identity = identity(&metadata);
        if before == Some(identity) {
            return Ok(None);
        }
        if metadata.len() > MAX_SIZE {
            return Err(Error::corrupt(MAX_SIZE, format!("longer than {MAX_SIZE} bytes")));
        }
        let mut bytes = Vec::new();
        (&mut file).take(metadata.len()).read_to_end(&mut bytes)?;
        let users = entries(bytes)?;
        Ok(Some(DenyTable { identity: Some(identity), users, trouble: None }))
    }
}

fn identity(metadata: &Metadata) -> FileVersion {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Returns the service patterns of each user, from a file of any engine.
fn entries(bytes: Vec<u8>) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
    let mut users = HashMap::new();
    let mut put = |user: &[u8], value: &[u8]| {
        if let Some(services) = services(value) {
            users.insert(user.to_vec(), services.to_vec());
        }
    };
    match detect(&bytes) {
        // A flat file before its first entry.
        Err(Error::Empty) => {}
        Ok(Engine::Flat) | Err(Error::Unknown) => {
            flat::FlatTable::read(bytes)?.iter().for_each(|(user, value)| put(user, value));
        }
        Ok(Engine::Skiplist) => {
            let mut replay = Replay::new();
            replay.follow(&bytes, bytes.len() as u64)?;
            replay.iter().for_each(|(user, value)| put(user, value));
        }
        Ok(Engine::Twoskip | Engine::Twom) => {
            let mut rows = 0;
            let problems = verify(&bytes, &mut |row: RawRecord<'_>| {
                rows += 1;
                put(row.key, row.value);
            });
            if let (0, Some(problem)) = (rows, problems.first()) {
                return Err(problem.clone().into());
            }
        }
        Err(error) => return Err(error),
    }
    Ok(users)
}

/// Returns the patterns of an entry, `VERSION TAB PATTERNS [TAB MESSAGE]`; `None`: Cyrus ignores it.
fn services(value: &[u8]) -> Option<&[u8]> {
    let mut columns = value.split(|b| *b == b'\t');
    let version: u32 = std::str::from_utf8(columns.next()?).ok()?.trim().parse().ok()?;
    (1..=VERSION).contains(&version).then_some(columns.next()?)
}

/// Whether the last pattern that matches the service is not negated.
fn includes(patterns: &[u8], service: &[u8]) -> bool {
    for pattern in patterns.rsplit(|b| *b == b',') {
        let (not, pattern) = match pattern.strip_prefix(b"!") {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        if matches(service, pattern) {
            return !not;
        }
    }
    false
}

/// Wildmat (Cyrus `lib/wildmat.c`): `*`, `?`, `\` before a character, `[a-z]` and `[^a-z]`.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    let (mut text, mut pattern) = (text, pattern);
    // Text not yet matched by the last star, and the pattern behind that star.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            again = Some((text, rest));
            pattern = rest;
            continue;
        }
        let step = match (text.split_first(), pattern.is_empty()) {
            (None, true) => return true,
            (None, false) => return false,
            (Some(_), true) => None,
            (Some((first, rest)), false) => one(*first, pattern).map(|pattern| (rest, pattern)),
        };
        match (step, again) {
            (Some((rest, after)), _) => (text, pattern) = (rest, after),
            (None, Some(([_, rest @ ..], star))) => {
                again = Some((rest, star));
                (text, pattern) = (rest, star);
            }
            (None, _) => return false,
        }
    }
}

/// Returns the pattern behind its first element, if that matches the byte.
fn one(byte: u8, pattern: &[u8]) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'\\', literal, rest @ ..] => (*literal == byte).then_some(rest),
        [b'[', class @ ..] => {
            let (reverse, class) = match class {
                [b'^', class @ ..] => (true, class),
                class => (false, class),
            };
            // A bracket or a hyphen at the beginning is literal.
            let end = class.iter().skip(1).position(|b| *b == b']').map(|at| at + 1)?;
            let (members, rest) = (class.get(..end)?, class.get(end + 1..)?);
            let mut found = false;
            let mut at = 0;
            while let Some(low) = members.get(at) {
                match (members.get(at + 1), members.get(at + 2)) {
                    (Some(b'-'), Some(high)) => {
                        found |= (low..=high).contains(&&byte);
                        at += 3;
                    }
                    _ => {
                        found |= *low == byte;
                        at += 1;
                    }
                }
            }
            (found != reverse).then_some(rest)
        }
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cyrusdb::order::Order;
    use crate::cyrusdb::skip::node::Layout;
    use crate::testing::cyrus_writer::Writer;
    use crate::testing::random::Random;

    fn name(name: &str) -> MailboxName {
        MailboxName::new(name).unwrap()
    }

    #[test]
    fn services_match_as_in_wildmat() {
        for (patterns, included) in [
            ("*", true),
            ("lmtp", true),
            ("imap,pop3", false),
            ("imap,lmtp", true),
            ("*,!lmtp", false),
            ("!lmtp,*", true),
            ("lmtp*", true),
            ("lmt?", true),
            ("l*p", true),
            ("*m*t*", true),
            ("l*x", false),
            ("lm[s-u]p", true),
            ("lm[^t]p", false),
            ("lm[]t]p", true),
            ("lm[", false),
            ("\\lmtp", true),
            ("lmtpunix", false),
            ("LMTP", false),
            ("", false),
        ] {
            assert_eq!(includes(patterns.as_bytes(), b"lmtp"), included, "{patterns}");
        }
    }

    #[test]
    fn entries_are_read_from_each_engine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user_deny.db");
        let rows: [(&[u8], &[u8]); 4] = [
            (b"bob@x.org", b"2\timap,lmtp\tgone"),
            (b"jane", b"2\t*\t"),
            (b"odd", b"9\t*\t"),
            (b"max.muster", b"1\tlmtp"),
        ];
        let twoskip = |layout| {
            let order = |a: &[u8], b: &[u8]| Order::Raw.compare(a, b);
            let mut writer = Writer::new(layout, Random(7), 1, order);
            rows.iter().for_each(|(key, value)| writer.put(key, value));
            writer.commit();
            writer.file
        };
        // As Cyrus 2.5 and later write it, and as 2.4 did.
        let flat = |tab: &str| {
            let line = |(key, value): &(&[u8], &[u8])| {
                let value = std::str::from_utf8(value).unwrap().replace('\t', "\u{1}");
                let mut line = [key, &b"\t"[..]].concat();
                for piece in value.split('\u{1}') {
                    line.extend(piece.bytes());
                    line.extend(tab.chars().map(|c| c as u8));
                }
                line.truncate(line.len() - tab.chars().count());
                line.push(b'\n');
                line
            };
            rows.iter().flat_map(line).collect::<Vec<u8>>()
        };
        for (what, bytes) in [
            ("twoskip", twoskip(Layout::Twoskip)),
            ("flat", flat("\u{ff}\u{89}")),
            ("flat of 2.4", flat("\t")),
        ] {
            fs::write(&path, bytes).unwrap();
            let deny = UserDeny::open(&path, "lmtp");
            assert_eq!(deny.status(), Ok(3), "{what}");
            for (inbox, denied) in [
                ("user.jane", true),
                ("x.org!user.bob", true),
                ("user.bob", false),
                ("user.max^muster", true),
                ("user.odd", false),
                ("news", false),
            ] {
                assert_eq!(deny.denies(&name(inbox)), denied, "{what}: {inbox}");
            }
            assert!(!UserDeny::open(&path, "pop3").denies(&name("x.org!user.bob")), "{what}");
        }
    }

    #[test]
    fn changed_database_is_read_again_and_broken_one_stays_cached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user_deny.db");
        let deny = UserDeny::open(&path, "lmtp");
        let denies = || {
            deny.looked.store(0, Relaxed);
            deny.denies(&name("user.jane"))
        };
        assert!(!denies() && deny.status() == Ok(0));
        fs::write(&path, "jane\t2\t*\t\n").unwrap();
        assert!(denies() && deny.status() == Ok(1));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(denies());
        assert!(deny.status().unwrap_err().contains("user_deny.db"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(!denies());
        assert_eq!(deny.status(), Ok(0));
    }
}
