//! A network that keeps the order of bytes on a line, and nothing else: it splits, delays, holds
//! back and cuts anywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::random::Random;

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Line(u64);

/// An end of it.
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

/// What arrives.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The client's connection reaches the server.
    Opened,
    Bytes(Vec<u8>),
    /// No more will come.
    Closed,
}

pub(crate) struct Network {
    random: Random,
    lines: u64,
    sent: u64,
    flying: BTreeMap<(Duration, u64), (Line, End, Piece)>,
    /// When the last piece for this end of the line arrives.
    last: HashMap<(Line, End), Duration>,
    vanished: HashSet<Line>,
    /// Longest delay of a piece, in milliseconds.
    pub(crate) slowness: u64,
    /// One in so many pieces is lost and sent again, later and later; 0: none.
    pub(crate) lossy: u64,
    /// Nothing arrives before.
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

    /// Begins a connection; `None` if the network is down, and nobody will ever hear of it.
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
            // Mostly whole, now and then a byte alone.
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

    /// One end says no more.
    pub(crate) fn close(&mut self, line: Line, by: End, now: Duration) {
        self.push(line, by.other(), Piece::Closed, now);
    }

    /// The line breaks: of what is on its way a part arrives, cut at any byte.
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

    /// The other host is gone, and with it what is on its way, without a word.
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

    /// When something arrives.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// What has arrived, one after the other.
    pub(crate) fn arrived(&mut self, now: Duration) -> Option<(Line, End, Piece)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
