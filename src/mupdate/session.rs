//! A connection that is logged in, and how long to wait on one.

use std::time::Duration;

use super::banner::Banner;
use super::wire::{Input, MAX_LINE};

/// A connection that is logged in: ready to become a [`Stream`](super::Stream) or a
/// [`Finder`](super::Finder).
#[derive(Debug)]
pub struct Session {
    /// What the server said of itself.
    pub banner: Banner,
    /// The SASL mechanism of the login.
    pub mechanism: String,
    /// Whether the connection is under TLS.
    pub tls: bool,
    pub(super) input: Input,
}

impl Session {
    /// A session whose banner has been read; `input` holds what came after the login.
    pub fn new(banner: Banner, mechanism: &str, tls: bool, mut input: Input) -> Self {
        input.set_max_line(MAX_LINE);
        Self { banner, mechanism: mechanism.to_owned(), tls, input }
    }
}

/// How long to wait, and how often to ask; in brackets what [`Default`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// For a whole banner (10 s). A server whose workers are all busy accepts connections and says
    /// nothing.
    pub banner: Duration,
    /// For all of the login: banners, TLS, SASL (30 s).
    pub login: Duration,
    /// Longest silence within a list (30 s).
    pub list_silence: Duration,
    /// For a whole list (30 min).
    pub list: Duration,
    /// From one NOOP of a stream to the next (2.5 s); below the 5 s after which a silent stream costs the
    /// master a worker.
    pub noop_every: Duration,
    /// For the answer to a NOOP of a stream (10 s).
    pub noop_answer: Duration,
    /// For the answer to a FIND, or to a NOOP between them (4 s).
    pub find_answer: Duration,
    /// Silence after which a connection for FINDs is tried with a NOOP (5 s).
    pub keep_alive: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            banner: Duration::from_secs(10),
            login: Duration::from_secs(30),
            list_silence: Duration::from_secs(30),
            list: Duration::from_secs(30 * 60),
            noop_every: Duration::from_millis(2500),
            noop_answer: Duration::from_secs(10),
            find_answer: Duration::from_secs(4),
            keep_alive: Duration::from_secs(5),
        }
    }
}
