//! Places for connections, and who may have them.
//!
//! Each connection costs a descriptor and a thread, and may stay idle for ever. A socket that every
//! user may write to (mode 0666), or a port, must not be filled by one of them: the mail server would
//! find no place. So one client, which is a user at a unix socket and a host at a port, has a limit of
//! its own, there are more places than that, and a client that holds many gets none of the last ones.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, Shutdown};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::connection::Open;

/// A client, however many connections it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// A user of this host: SO_PEERCRED of unix(7).
    User(u32),
    /// A host; of IPv6 its network of 64 bits, all of whose addresses one host may use.
    Host(IpAddr),
    /// The kernel does not say.
    Unknown,
}

impl Peer {
    /// The host with this address.
    pub(super) fn host(address: IpAddr) -> Self {
        Peer::Host(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::User(uid) => write!(f, "user {uid}"),
            Peer::Host(address) => write!(f, "{address}"),
            Peer::Unknown => f.write_str("an unknown client"),
        }
    }
}

/// The places of one socket. Shared by tasks and threads.
#[derive(Debug)]
pub(super) struct Room {
    state: Mutex<State>,
    /// Counts the places that came free.
    freed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// The number of the next connection.
    next: u64,
    /// The oldest first.
    places: BTreeMap<u64, Place>,
    held: HashMap<Peer, usize>,
}

#[derive(Debug)]
struct Place {
    peer: Peer,
    open: Open,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    room: Arc<Room>,
    number: u64,
}

/// What came of the wish for a place.
#[derive(Debug)]
pub(super) enum Entered {
    /// There was one.
    Free(Ticket),
    /// This client's oldest connection that never asked was closed for it.
    InPlaceOf(Peer, Ticket),
    /// There is none for this client.
    Full,
}

impl Room {
    /// With this many places for one client; for all together there are a third more.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let (places, held) = (BTreeMap::new(), HashMap::new());
        let state = Mutex::new(State { limit: limit.max(1), next: 0, places, held });
        Arc::new(Self { state, freed: watch::Sender::new(0) })
    }

    /// Changes the number of places. Connections live on in any case.
    pub(super) fn set_limit(&self, limit: usize) {
        self.lock().limit = limit.max(1);
        self.freed.send_modify(|freed| *freed = freed.wrapping_add(1));
    }

    /// The most places for one client.
    pub(super) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Changes whenever a place may have come free.
    pub(super) fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// A place for a connection of this client.
    pub(super) fn enter(self: &Arc<Self>, peer: Peer, open: &Open) -> Entered {
        let mut state = self.lock();
        let mut gone = None;
        if !state.admits(peer) {
            let Some(number) = state.never_asked(peer) else { return Entered::Full };
            gone = state.remove(number);
        }
        let number = state.next;
        state.next = number.wrapping_add(1);
        state.places.insert(number, Place { peer, open: open.clone() });
        let held = state.held.entry(peer).or_default();
        *held = held.saturating_add(1);
        drop(state);
        let ticket = Ticket { room: Arc::clone(self), number };
        match gone {
            None => Entered::Free(ticket),
            Some(Place { peer, open }) => {
                // Its thread reads the end and is over. An error means that the client was quicker.
                let _ = open.stream.shutdown(Shutdown::Both);
                Entered::InPlaceOf(peer, ticket)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All places of a socket with this limit for one client.
fn places(limit: usize) -> usize {
    limit.saturating_add(limit.div_ceil(3))
}

/// The most connections of a socket with this limit that wait for a place. Each has a descriptor.
pub(super) fn waiting_limit(limit: usize) -> usize {
    (limit / 8).max(8)
}

/// The largest limit for one client with which a socket takes no more than so many descriptors.
pub(super) fn limit_for(descriptors: usize) -> usize {
    // At most 1 + 1/3 + 1/8 for each, and nine for what is rounded.
    (descriptors.saturating_sub(9) / 3).saturating_mul(2).max(1)
}

impl State {
    fn held(&self, peer: Peer) -> usize {
        self.held.get(&peer).copied().unwrap_or(0)
    }

    /// Whether the client gets another place: it is under its limit, and of what is left there is a
    /// third of what it has. So a single client comes to its limit, and however many come together,
    /// the next one finds a place.
    fn admits(&self, peer: Peer) -> bool {
        let (held, free) = (self.held(peer), places(self.limit).saturating_sub(self.places.len()));
        held < self.limit && held < free.saturating_mul(3)
    }

    /// The oldest connection that never asked, of those clients that have no fewer than this one.
    fn never_asked(&self, peer: Peer) -> Option<u64> {
        let held = self.held(peer);
        let idle = |place: &Place| {
            !place.open.asked.load(Ordering::Relaxed) && self.held(place.peer) >= held
        };
        self.places.iter().find(|(_, place)| idle(place)).map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        let place = self.places.remove(&number)?;
        if let Some(held) = self.held.get_mut(&place.peer) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&place.peer);
            }
        }
        Some(place)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Gone already, if it was given to another.
        let _ = self.room.lock().remove(self.number);
        self.room.freed.send_modify(|freed| *freed = freed.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::super::connection::Stream;
    use super::*;

    const MAIL: Peer = Peer::User(101);
    const NOBODY: Peer = Peer::User(65534);
    const OTHER: Peer = Peer::User(1000);

    /// A connection that has asked, or never did, and its client.
    fn connection(asked: bool) -> (Open, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        let open = Open::new(Stream::Unix(server));
        open.asked.store(asked, Ordering::Relaxed);
        (open, client)
    }

    /// The places that a client gets without closing another connection, at most so many.
    fn take(room: &Arc<Room>, peer: Peer, asked: bool, most: usize) -> Vec<(Ticket, UnixStream)> {
        let mut got = Vec::new();
        loop {
            if got.len() == most {
                return got;
            }
            let (open, client) = connection(asked);
            match room.enter(peer, &open) {
                Entered::Free(ticket) => got.push((ticket, client)),
                _ => return got,
            }
        }
    }

    fn fill(room: &Arc<Room>, peer: Peer, asked: bool) -> Vec<(Ticket, UnixStream)> {
        take(room, peer, asked, usize::MAX)
    }

    #[test]
    fn one_client_comes_to_its_limit_and_there_are_places_for_others() {
        for limit in [1, 2, 3, 8, 100, 2000] {
            let room = Room::new(limit);
            let mail = fill(&room, MAIL, true);
            assert_eq!(mail.len(), limit);
            assert!(matches!(room.enter(MAIL, &connection(true).0), Entered::Full));
            let nobody = fill(&room, NOBODY, true);
            assert!(!nobody.is_empty(), "{limit}");
            // With a few places there is an end to it.
            if limit >= 100 {
                assert!(nobody.len() >= limit / 5);
                assert!(!fill(&room, OTHER, true).is_empty());
            }
            drop(mail);
            assert!(!fill(&room, MAIL, true).is_empty(), "{limit}");
        }
    }

    #[test]
    fn oldest_connection_that_never_asked_gives_way_to_a_client_with_no_more() {
        let room = Room::new(10);
        let mut idle = take(&room, NOBODY, false, 10);
        // Its own next one.
        let (next, _client) = connection(false);
        let Entered::InPlaceOf(NOBODY, _kept) = room.enter(NOBODY, &next) else { panic!() };
        let mut end = Vec::new();
        idle[0].1.read_to_end(&mut end).unwrap();
        idle[1].1.set_nonblocking(true).unwrap();
        assert!(idle[1].1.read(&mut [0]).is_err(), "only the oldest");
        // The mail server's, beyond the free places; never one of a client that has fewer.
        let _free = take(&room, MAIL, true, 3);
        let mut tickets = Vec::new();
        while let Entered::InPlaceOf(gave_way, ticket) = room.enter(MAIL, &connection(true).0) {
            assert_eq!(gave_way, NOBODY);
            tickets.push(ticket);
        }
        assert_eq!(tickets.len(), 4);
        // A ticket whose place was given away frees nothing.
        let before = room.lock().places.len();
        drop(idle.remove(0));
        assert_eq!(room.lock().places.len(), before);
        let state = room.lock();
        assert_eq!(state.held.values().sum::<usize>(), state.places.len());
    }

    #[test]
    fn connection_that_asked_never_gives_way() {
        let room = Room::new(3);
        let _asked = fill(&room, NOBODY, true);
        assert!(matches!(room.enter(NOBODY, &connection(true).0), Entered::Full));
    }

    #[test]
    fn limit_fits_its_descriptors() {
        for descriptors in 20..10_000 {
            let limit = limit_for(descriptors);
            assert!(places(limit) + waiting_limit(limit) <= descriptors, "{descriptors}");
        }
    }

    #[test]
    fn host_is_one_client_whatever_address_of_its_network_it_uses() {
        let host = |address: &str| Peer::host(address.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1:2"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"));
        assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
    }
}
