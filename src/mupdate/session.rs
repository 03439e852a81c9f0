//! A logged-in connection, and the timeouts of a connection.

use std::time::Duration;

use super::banner::Banner;
use super::wire::{Input, MAX_LINE};

/// A logged-in connection, ready to become a [`Stream`](super::Stream) or a
/// [`Finder`](super::Finder).
#[derive(Debug)]
pub struct Session {
    /// Banner of the server.
    pub banner: Banner,
    /// SASL mechanism of the login.
    pub mechanism: String,
    /// Whether the connection is under TLS.
    pub tls: bool,
    pub(super) input: Input,
}

impl Session {
    /// Creates a session after the banner; `input` holds the bytes received after the login.
    pub fn new(banner: Banner, mechanism: &str, tls: bool, mut input: Input) -> Self {
        input.set_max_line(MAX_LINE);
        Self { banner, mechanism: mechanism.to_owned(), tls, input }
    }
}

/// Timeouts and intervals, with the [`Default`] in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Timeout for a whole banner (10 s). A server whose workers are all busy accepts connections
    /// and sends nothing.
    pub banner: Duration,
    /// Timeout for the whole login: banners, TLS, SASL (30 s).
    pub login: Duration,
    /// Maximum silence within a list (30 s).
    pub list_silence: Duration,
    /// Timeout for a whole list (30 min).
    pub list: Duration,
    /// Interval between NOOPs of a stream (2.5 s). It is below the 5 s after which a silent stream
    /// occupies a worker of the master.
    pub noop_every: Duration,
    /// Timeout for the answer to a NOOP of a stream (10 s).
    pub noop_answer: Duration,
    /// Timeout for the answer to a FIND, or to a NOOP between FINDs (4 s).
    pub find_answer: Duration,
    /// Silence after which a connection for FINDs is tested with a NOOP (5 s).
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
