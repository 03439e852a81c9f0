//! Limits on the connections of one client at one socket.
//!
//! Each connection costs a descriptor and a thread, and may stay idle forever. One client must not
//! fill a socket that every user may write to (mode 0666), or a port: the mail server would find no
//! slot. A client is a user at a unix socket and a host at a port. Each client has a limit of its own,
//! the socket has more slots than that, and a client that holds many gets none of the last ones.

use std::collections::{BTreeMap, HashMap};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::stream::{OpenConnection, Peer};

/// The connection slots of one socket. Shared by tasks and threads.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    slots: Mutex<Slots>,
    /// Number of slots freed since the start.
    freed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Slots {
    limit: usize,
    /// The number of the next connection.
    next: u64,
    /// The oldest first.
    taken: BTreeMap<u64, Slot>,
    held: HashMap<Peer, usize>,
}

#[derive(Debug)]
struct Slot {
    peer: Peer,
    open: OpenConnection,
}

/// A taken slot, freed on drop.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<ConnectionLimit>,
    number: u64,
}

/// Result of asking for a slot.
#[derive(Debug)]
pub(super) enum Admission {
    /// There was a free slot.
    Free(Permit),
    /// This client's oldest connection without a request was closed to free a slot.
    InPlaceOf(Peer, Permit),
    /// There is no slot for this client.
    Full,
}

impl ConnectionLimit {
    /// Allows `limit` connections for each client, and a third more for all clients together.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let (taken, held) = (BTreeMap::new(), HashMap::new());
        let slots = Mutex::new(Slots { limit: limit.max(1), next: 0, taken, held });
        Arc::new(Self { slots, freed: watch::Sender::new(0) })
    }

    /// Changes the limit. Open connections stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.lock().limit = limit.max(1);
        self.freed.send_modify(|freed| *freed = freed.wrapping_add(1));
    }

    /// Maximum number of connections of one client.
    pub(super) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Changes whenever a slot may be free again.
    pub(super) fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// Takes a slot for a connection of this client.
    pub(super) fn admit(self: &Arc<Self>, peer: Peer, open: &OpenConnection) -> Admission {
        let mut slots = self.lock();
        let mut evicted = None;
        if !slots.admits(peer) {
            let Some(number) = slots.never_asked(peer) else { return Admission::Full };
            evicted = slots.remove(number);
        }
        let number = slots.next;
        slots.next = number.wrapping_add(1);
        slots.taken.insert(number, Slot { peer, open: open.clone() });
        let held = slots.held.entry(peer).or_default();
        *held = held.saturating_add(1);
        drop(slots);
        let permit = Permit { limit: Arc::clone(self), number };
        match evicted {
            None => Admission::Free(permit),
            Some(Slot { peer, open }) => {
                // Its thread reads the end of input and ends. An error means that the client closed
                // first.
                let _ = open.stream.shutdown(Shutdown::Both);
                Admission::InPlaceOf(peer, permit)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of slots of a socket with this limit for one client.
fn slots(limit: usize) -> usize {
    limit.saturating_add(limit.div_ceil(3))
}

/// Maximum number of connections that wait for a slot, by the limit for one client. Each has a
/// descriptor.
pub(super) fn waiting_limit(limit: usize) -> usize {
    (limit / 8).max(8)
}

/// The largest limit for one client with which a socket needs at most this number of descriptors.
pub(super) fn limit_for(descriptors: usize) -> usize {
    // At most 1 + 1/3 + 1/8 for each, and nine for rounding.
    (descriptors.saturating_sub(9) / 3).saturating_mul(2).max(1)
}

impl Slots {
    fn held(&self, peer: Peer) -> usize {
        self.held.get(&peer).copied().unwrap_or(0)
    }

    /// Whether the client gets another slot: it is under its limit, and the free slots are at least a
    /// third of those it holds. So a single client reaches its limit, and however many clients come
    /// together, the next one finds a slot.
    fn admits(&self, peer: Peer) -> bool {
        let (held, free) = (self.held(peer), slots(self.limit).saturating_sub(self.taken.len()));
        held < self.limit && held < free.saturating_mul(3)
    }

    /// The oldest connection without a request, of the clients that hold no fewer than this one.
    fn never_asked(&self, peer: Peer) -> Option<u64> {
        let held = self.held(peer);
        let idle =
            |slot: &Slot| !slot.open.asked.load(Ordering::Relaxed) && self.held(slot.peer) >= held;
        self.taken.iter().find(|(_, slot)| idle(slot)).map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) -> Option<Slot> {
        let slot = self.taken.remove(&number)?;
        if let Some(held) = self.held.get_mut(&slot.peer) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&slot.peer);
            }
        }
        Some(slot)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The slot is gone already if another connection took it over.
        let _ = self.limit.lock().remove(self.number);
        self.limit.freed.send_modify(|freed| *freed = freed.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::super::stream::ClientStream;
    use super::*;

    const MAIL: Peer = Peer::User(101);
    const NOBODY: Peer = Peer::User(65534);
    const OTHER: Peer = Peer::User(1000);

    /// A connection with or without a request, and its client.
    fn connection(asked: bool) -> (OpenConnection, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        let open = OpenConnection::new(ClientStream::Unix(server));
        open.asked.store(asked, Ordering::Relaxed);
        (open, client)
    }

    /// Takes up to `most` free slots for a client.
    fn take(
        socket: &Arc<ConnectionLimit>,
        peer: Peer,
        asked: bool,
        most: usize,
    ) -> Vec<(Permit, UnixStream)> {
        let mut got = Vec::new();
        loop {
            if got.len() == most {
                return got;
            }
            let (open, client) = connection(asked);
            match socket.admit(peer, &open) {
                Admission::Free(permit) => got.push((permit, client)),
                _ => return got,
            }
        }
    }

    fn fill(socket: &Arc<ConnectionLimit>, peer: Peer, asked: bool) -> Vec<(Permit, UnixStream)> {
        take(socket, peer, asked, usize::MAX)
    }

    #[test]
    fn client_at_its_limit_leaves_slots_for_others() {
        for limit in [1, 2, 3, 8, 100, 2000] {
            let socket = ConnectionLimit::new(limit);
            let mail = fill(&socket, MAIL, true);
            assert_eq!(mail.len(), limit);
            assert!(matches!(socket.admit(MAIL, &connection(true).0), Admission::Full));
            let nobody = fill(&socket, NOBODY, true);
            assert!(!nobody.is_empty(), "{limit}");
            // A few slots run out.
            if limit >= 100 {
                assert!(nobody.len() >= limit / 5);
                assert!(!fill(&socket, OTHER, true).is_empty());
            }
            drop(mail);
            assert!(!fill(&socket, MAIL, true).is_empty(), "{limit}");
        }
    }

    #[test]
    fn oldest_connection_without_request_is_evicted() {
        let socket = ConnectionLimit::new(10);
        let mut idle = take(&socket, NOBODY, false, 10);
        // The client's own next connection.
        let (next, _client) = connection(false);
        let Admission::InPlaceOf(NOBODY, _kept) = socket.admit(NOBODY, &next) else { panic!() };
        let mut end = Vec::new();
        idle[0].1.read_to_end(&mut end).unwrap();
        idle[1].1.set_nonblocking(true).unwrap();
        assert!(idle[1].1.read(&mut [0]).is_err(), "only the oldest");
        // The mail server evicts beyond the free slots, but never a client that holds fewer.
        let _free = take(&socket, MAIL, true, 3);
        let mut permits = Vec::new();
        while let Admission::InPlaceOf(gave_way, permit) = socket.admit(MAIL, &connection(true).0) {
            assert_eq!(gave_way, NOBODY);
            permits.push(permit);
        }
        assert_eq!(permits.len(), 4);
        // The permit of an evicted connection frees nothing.
        let before = socket.lock().taken.len();
        drop(idle.remove(0));
        assert_eq!(socket.lock().taken.len(), before);
        let slots = socket.lock();
        assert_eq!(slots.held.values().sum::<usize>(), slots.taken.len());
    }

    #[test]
    fn connection_with_a_request_is_never_evicted() {
        let socket = ConnectionLimit::new(3);
        let _asked = fill(&socket, NOBODY, true);
        assert!(matches!(socket.admit(NOBODY, &connection(true).0), Admission::Full));
    }

    #[test]
    fn limit_fits_its_descriptors() {
        for descriptors in 20..10_000 {
            let limit = limit_for(descriptors);
            assert!(slots(limit) + waiting_limit(limit) <= descriptors, "{descriptors}");
        }
    }
}
