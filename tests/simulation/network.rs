//! A network that keeps only the order of bytes on a connection: it splits, delays, holds back
//! and cuts anywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::random::Random;

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Line(u64);

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    fn other(self) -> Self {
        match self {
            End::Client => End::Server,
            End::Server => End::Client,
        }
    }
}

/// A piece that arrives.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The client's connection reaches the server.
    Opened,
    Bytes(Vec<u8>),
    /// The end of the input.
    Closed,
}

pub(crate) struct Network {
    random: Random,
    lines: u64,
    sent: u64,
    flying: BTreeMap<(Duration, u64), (Line, End, Piece)>,
    /// Arrival of the last piece for this end of the connection.
    last: HashMap<(Line, End), Duration>,
    vanished: HashSet<Line>,
    /// Longest delay of a piece, in milliseconds.
    pub(crate) slowness: u64,
    /// One in this number of pieces is lost and sent again, with growing delay; 0: none.
    pub(crate) lossy: u64,
    /// No piece arrives before this time.
    pub(crate) blocked_until: Duration,
}

impl Network {
    pub(crate) fn new(random: Random) -> Self {
        let (flying, last, vanished) = (BTreeMap::new(), HashMap::new(), HashSet::new());
        let blocked_until = Duration::ZERO;
        Self {
            random,
            lines: 0,
            sent: 0,
            flying,
            last,
            vanished,
            slowness: 5,
            lossy: 0,
            blocked_until,
        }
    }

    /// Opens a connection. `None`: the network is down, and the connection is never refused.
    pub(crate) fn open(&mut self, now: Duration) -> Option<Line> {
        if now < self.blocked_until {
            return None;
        }
        self.lines += 1;
        let line = Line(self.lines);
        self.push(line, End::Server, Piece::Opened, now);
        Some(line)
    }

    pub(crate) fn send(&mut self, line: Line, to: End, bytes: &[u8], now: Duration) {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Mostly whole, sometimes a single byte.
            let most = rest.len() as u64;
            let len = match self.random.below(4) {
                0 => self.random.between(1, most),
                1 => self.random.between(1, most.min(4)),
                _ => most,
            };
            let (piece, after) = rest.split_at(len as usize);
            self.push(line, to, Piece::Bytes(piece.to_vec()), now);
            rest = after;
        }
    }

    /// One end closes.
    pub(crate) fn close(&mut self, line: Line, by: End, now: Duration) {
        self.push(line, by.other(), Piece::Closed, now);
    }

    /// Breaks the connection: a part of the bytes in transit arrives, cut at any byte.
    pub(crate) fn cut(&mut self, line: Line, now: Duration) {
        for end in [End::Client, End::Server] {
            let of_it = self.flying.iter().filter(|(_, (of, to, _))| (*of, *to) == (line, end));
            let keys: Vec<_> = of_it.map(|(key, _)| *key).collect();
            let keep = self.random.below(keys.len() as u64 + 1) as usize;
            for (at, key) in keys.iter().enumerate().skip(keep) {
                let piece = self.flying.remove(key);
                if at == keep
                    && let Some((_, _, Piece::Bytes(mut bytes))) = piece
                {
                    bytes.truncate(self.random.below(bytes.len() as u64) as usize);
                    self.flying.insert(*key, (line, end, Piece::Bytes(bytes)));
                }
            }
            self.push(line, end, Piece::Closed, now);
        }
    }

    /// Removes the other host and everything in transit, without a close.
    pub(crate) fn vanish(&mut self, line: Line) {
        self.flying.retain(|_, (of, _, _)| *of != line);
        self.vanished.insert(line);
    }

    fn push(&mut self, line: Line, to: End, piece: Piece, now: Duration) {
        if self.vanished.contains(&line) {
            return;
        }
        let mut delay = Duration::from_millis(self.random.below(self.slowness + 1));
        if self.lossy > 0 && self.random.one_in(self.lossy) {
            delay += Duration::from_millis(self.random.pick(&[200, 600, 1_400, 3_000]));
        }
        let mut at = now + delay;
        if now < self.blocked_until {
            at = self.blocked_until + delay;
        }
        let last = self.last.entry((line, to)).or_default();
        at = at.max(*last);
        *last = at;
        self.sent += 1;
        self.flying.insert((at, self.sent), (line, to, piece));
    }

    /// Time of the next arrival.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// Returns the next piece that has arrived.
    pub(crate) fn arrived(&mut self, now: Duration) -> Option<(Line, End, Piece)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
