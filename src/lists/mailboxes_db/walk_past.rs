//! Visits names except skipped ranges. Most of a list is of users, which a search for a shared folder skips.

use std::sync::Arc;

use crate::cyrusdb::error::Error;
use crate::cyrusdb::order::Order;
use crate::cyrusdb::skip::position::Walked;
use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::Doubt;
use crate::model::list::WalkStep;
use crate::model::name::KeyGeneration;

use super::error::{BadRecord, ReadError, WaitPolicy};
use super::lookup::{ATTEMPTS, pause, read_record};
use super::view::View;
use super::walk::{KeyRange, MAX_IDLE_ATTEMPTS};
use super::{FileList, keys};
use crate::lists::RecordVisitor;

/// End of a walk through one range.
enum WalkEnd {
    /// The visitor stopped.
    Stopped,
    /// All names have been visited, or the file is in the other order.
    Done,
}

impl FileList {
    /// See [`MailboxList::each_past`](crate::model::list::MailboxList::each_past).
    pub(super) fn walk_past(
        &self,
        prefix: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), Doubt> {
        let mut scratch = Scratch::default();
        let view = self.check_with_retries(&mut scratch).map_err(|error| self.describe(error))?;
        for generation in [KeyGeneration::Separated, KeyGeneration::Internal] {
            if view.key_generation().is_some_and(|decided| decided != generation) {
                continue;
            }
            for start in keys::key_prefixes(generation, prefix) {
                let range = KeyRange { generation, start: &start, prefix };
                let ended = match &*view {
                    View::Skip(_) => self.in_file(&view, &range, visit, &mut scratch)?,
                    View::Index(_) => self.in_memory(&view, &range, visit)?,
                };
                if let WalkEnd::Stopped = ended {
                    return Ok(());
                }
            }
        }
        match view.incomplete() {
            Some(why) => Err(self.describe(why)),
            None => Ok(()),
        }
    }

    fn in_memory(
        &self,
        view: &View,
        range: &KeyRange<'_>,
        visit: &mut RecordVisitor<'_>,
    ) -> Result<WalkEnd, Doubt> {
        let View::Index(index) = view else { return Ok(WalkEnd::Done) };
        let mut outcome = Ok(WalkEnd::Done);
        index.each_past(range.start, &mut |key, value| {
            let step = range.show(key, value, visit);
            if let Ok(WalkStep::Stop) = step {
                outcome = Ok(WalkEnd::Stopped);
            }
            step.unwrap_or_else(|bad| {
                outcome = Err(self.describe(bad));
                WalkStep::Stop
            })
        });
        outcome
    }

    /// Walks in each order in which the keys may be. In the right order, keys with a common beginning are
    /// neighbours, so that none is missed; in the other order some may be visited again.
    fn in_file(
        &self,
        view: &Arc<View>,
        range: &KeyRange<'_>,
        visit: &mut RecordVisitor<'_>,
        scratch: &mut Scratch,
    ) -> Result<WalkEnd, Doubt> {
        let View::Skip(skip) = &**view else { return Ok(WalkEnd::Done) };
        for order in skip.orders() {
            if let WalkEnd::Stopped = self.in_order(*order, range, visit, scratch)? {
                return Ok(WalkEnd::Stopped);
            }
        }
        Ok(WalkEnd::Done)
    }

    /// Walks in one order. If a writer overtakes the walk, it continues at the last name, in the state of that
    /// time.
    fn in_order(
        &self,
        order: Order,
        range: &KeyRange<'_>,
        visit: &mut RecordVisitor<'_>,
        scratch: &mut Scratch,
    ) -> Result<WalkEnd, Doubt> {
        let mut from = range.start.to_vec();
        let mut attempt = 0;
        loop {
            pause(attempt, WaitPolicy::Allowed);
            let view = self.check_with_retries(scratch).map_err(|error| self.describe(error))?;
            let View::Skip(view) = &*view else {
                return Err(
                    self.describe(ReadError::Changing("the list was replaced while it was walked"))
                );
            };
            if !view.orders().contains(&order) {
                return Ok(WalkEnd::Done);
            }
            let end = view.header().end;
            let (mut step, mut is_behind) = (Ok(WalkStep::On), false);
            let start = from.clone();
            let walked = view.walk_in(order, &start, scratch, &mut |key, value| {
                if !key.starts_with(range.start) {
                    is_behind = true;
                    return false;
                }
                attempt = 0;
                step = range.show(key, value, visit);
                from.clear();
                match step {
                    Ok(WalkStep::Past(length)) => {
                        from = crate::model::list::behind_all(key, length)
                    }
                    _ => from.extend_from_slice(key),
                }
                matches!(step, Ok(WalkStep::On))
            });
            attempt += 1;
            match (walked, step) {
                (_, Err(why)) => return Err(self.describe(why)),
                (_, Ok(WalkStep::Stop)) => return Ok(WalkEnd::Stopped),
                (Ok(Walked::Stopped), Ok(WalkStep::Past(_))) if !is_behind => {}
                (Ok(Walked::OtherOrder), _) => return Ok(WalkEnd::Done),
                // A walk that a writer has overtaken may seem to be at the end.
                (Ok(_), _) if view.header_now().is_ok_and(|now| now.end == end) => {
                    return Ok(WalkEnd::Done);
                }
                (Ok(_), _) if attempt < MAX_IDLE_ATTEMPTS => {}
                (Err(Error::Corrupt { .. }), _) if attempt < ATTEMPTS => {}
                (Ok(_), _) => {
                    return Err(self.describe(ReadError::Changing("changed all the time")));
                }
                (Err(error), _) => return Err(self.describe(error)),
            }
        }
    }
}

impl KeyRange<'_> {
    /// Shows a row to the visitor, if it is one of this range.
    fn show(
        &self,
        key: &[u8],
        value: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<WalkStep, BadRecord> {
        let Some(name) = self.name(key) else { return Ok(WalkStep::On) };
        let step = visit(&name, &read_record(&name, value)?);
        // Each byte of a name is one byte of its key, behind an `N` in the keys of 3.6 and later.
        let before = usize::from(self.generation == KeyGeneration::Separated);
        Ok(match step {
            WalkStep::Past(length) => WalkStep::Past(before + length),
            step => step,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::ops::ControlFlow;

    use super::*;
    use crate::cyrusdb::skip::node::Layout;
    use crate::lists::FileListOptions;
    use crate::model::list::MailboxList;
    use crate::model::mod_time::ModTime;
    use crate::model::name::MailboxName;
    use crate::model::record::Record;
    use crate::model::record::{AnonymousRights, State};
    use crate::replica::store::ReplicaWriter;
    use crate::replica::{ReplicaMeta, Transaction as _};
    use crate::testing::cyrus_writer::Writer;
    use crate::testing::random::Random;

    /// Around the range of the users, in both orders.
    const SHARED: [&str; 14] = [
        "Info",
        "News",
        "News.Big",
        "News-x",
        "use",
        "user",
        "user-x",
        "user!x",
        "users",
        "users.a",
        "user^x",
        "example.org!Info",
        "example.org!users.b",
        "zoo",
    ];

    fn names() -> Vec<MailboxName> {
        let users = (0..500).flat_map(|n| {
            [format!("user.u{n}"), format!("user.u{n}.Sent"), format!("example.org!user.u{n}")]
        });
        let all = users.chain(SHARED.map(str::to_owned));
        all.map(|name| MailboxName::new(name).unwrap()).collect()
    }

    fn is_users(name: &MailboxName) -> bool {
        name.without_domain().starts_with(b"user.")
    }

    /// Returns the names that a walk past the users finds, and the number of names it visited.
    fn shared(list: &dyn MailboxList, prefix: &[u8]) -> (BTreeSet<String>, usize) {
        let (mut found, mut shown) = (BTreeSet::new(), 0);
        list.each_past(prefix, &mut |name, _| {
            shown += 1;
            match is_users(name) {
                true => WalkStep::Past(name.as_bytes().len() - name.without_domain().len() + 5),
                false => {
                    found.insert(name.to_string());
                    WalkStep::On
                }
            }
        })
        .unwrap();
        (found, shown)
    }

    fn all_shared(prefix: &str) -> BTreeSet<String> {
        SHARED.into_iter().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
    }

    fn check(list: &dyn MailboxList, what: &str) {
        for prefix in ["", "u", "user", "example.org!", "News"] {
            let (found, shown) = shared(list, prefix.as_bytes());
            assert_eq!(found, all_shared(prefix), "{what} {prefix:?}");
            assert!(shown <= 4 * SHARED.len(), "{what} {prefix:?}: {shown}");
        }
        let mut shown = 0;
        list.each_past(b"", &mut |_, _| {
            shown += 1;
            WalkStep::Stop
        })
        .unwrap();
        assert_eq!(shown, 1, "{what}");
        let mut all = 0;
        list.each(b"", &mut |_, _| {
            all += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(all, names().len(), "{what}");
    }

    #[test]
    fn walk_past_users_finds_all_shared_folders_in_every_engine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let value = b"%(T er P default S be1.example.org)";
        for layout in [Layout::Twoskip, Layout::Twom { checksums: true }] {
            for generation in [KeyGeneration::Separated, KeyGeneration::Internal] {
                for order in [Order::Raw, Order::Mbox] {
                    let is_possible =
                        layout == Layout::Twoskip && generation == KeyGeneration::Internal;
                    if order == Order::Mbox && !is_possible {
                        continue;
                    }
                    let compare = match order {
                        Order::Raw => |a: &[u8], b: &[u8]| Order::Raw.compare(a, b),
                        Order::Mbox => |a: &[u8], b: &[u8]| Order::Mbox.compare(a, b),
                    };
                    let mut writer = Writer::new(layout, Random(7), 1, compare);
                    for name in names() {
                        let mut key = Vec::new();
                        name.push_key(generation, &mut key);
                        writer.put(&key, value);
                    }
                    writer.commit();
                    fs::write(&path, &writer.file).unwrap();
                    let list = FileList::open(&path, FileListOptions::default());
                    check(&list, &format!("{layout:?} {generation:?} {order:?}"));
                }
            }
        }
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for name in names() {
            let mut key = Vec::new();
            name.push_key(KeyGeneration::Internal, &mut key);
            lines.push([&key[..], b"\t0 be1.example.org!default \n"].concat());
        }
        fs::write(&path, lines.concat()).unwrap();
        check(&FileList::open(&path, FileListOptions::default()), "flat");
    }

    #[test]
    fn walk_past_users_of_a_skiplist_finds_all_others() {
        for generation in ["current", "legacy"] {
            let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/");
            let path = format!("{data}{generation}-keys/skiplist.db");
            let list = FileList::open(&path, FileListOptions::default());
            let (mut rest, mut all) = (BTreeSet::new(), 0);
            list.each(b"", &mut |name, _| {
                all += 1;
                if !is_users(name) {
                    rest.insert(name.to_string());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
            let (found, shown) = shared(&list, b"");
            assert!(shown < all, "{shown} of {all}");
            assert_eq!(found, rest);
            // Below a user nothing is skipped.
            for prefix in ["user.", "user.a", "use"] {
                let (mut below, mut every) = (BTreeSet::new(), BTreeSet::new());
                list.each_past(prefix.as_bytes(), &mut |name, _| {
                    below.insert(name.to_string());
                    WalkStep::On
                })
                .unwrap();
                list.each(prefix.as_bytes(), &mut |name, _| {
                    every.insert(name.to_string());
                    ControlFlow::Continue(())
                })
                .unwrap();
                assert!(!every.is_empty());
                assert_eq!(below, every, "{prefix}");
            }
        }
    }

    #[test]
    fn walk_past_users_of_a_replica_finds_all_shared_folders() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = ReplicaWriter::open(folder.path()).unwrap();
        let mut change = place.begin().unwrap();
        for name in names() {
            let record = Record {
                state: State::Active,
                server: Some("be1.example.org".into()),
                partition: "default".into(),
                anonymous: AnonymousRights::default(),
            };
            change.put(&name, &record, ModTime::NOT_LATELY).unwrap();
        }
        let synchronised = Some(std::time::SystemTime::now());
        change.set_about(&ReplicaMeta { synchronised, ..ReplicaMeta::default() }).unwrap();
        change.commit().unwrap();
        check(&place.list(), "LMDB");
        {
            use crate::os::pinned_path::PinnedPath;
            use crate::replica::store::LocklessReplica;
            let at = Arc::new(PinnedPath::at(folder.path().join("data.mdb")));
            check(&LocklessReplica::at(at, std::time::Duration::ZERO), "without LMDB");
        }
    }
}
