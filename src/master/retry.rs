//! Backoff between connection attempts, for each address of the masters. Pure: time and chance are passed
//! in.

use std::time::Duration;

/// Class of a failure; decides how long its server is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryClass {
    /// Not reached, disconnected or silent: it may be back soon.
    Network,
    /// TLS or login: nothing changes by itself, each attempt holds a thread of the server for its
    /// three seconds' pause (`failedloginpause`), and mupdate of Cyrus 3.12 ends its whole process
    /// when a TLS handshake fails (`imap/mupdate.c:cmd_starttls`).
    Refused,
    /// Our own disk. Requesting the list again does not empty a full disk.
    Disk,
}

impl RetryClass {
    /// The pause after the first failure, and the maximum.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            RetryClass::Network => (Duration::from_millis(500), Duration::from_secs(4)),
            RetryClass::Refused => (Duration::from_secs(20), Duration::from_secs(300)),
            RetryClass::Disk => (Duration::from_secs(2), Duration::from_secs(300)),
        }
    }
}

/// The addresses in the order of preference, each with its own pause.
#[derive(Debug)]
pub(crate) struct Retry {
    servers: Vec<ServerBackoff>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ServerBackoff {
    failures: u32,
    not_before: Duration,
}

/// Maximum number of doublings of a pause.
const MAX_DOUBLINGS: u32 = 16;

impl Retry {
    /// Backoff for this number of addresses.
    pub(crate) fn new(servers: usize) -> Self {
        Self { servers: vec![ServerBackoff::default(); servers.max(1)] }
    }

    /// Returns the address to try next and when: the first that may be tried now, else the one whose
    /// pause ends first.
    pub(crate) fn next(&self, now: Duration) -> (usize, Duration) {
        let waits = self.servers.iter().map(|server| server.not_before.saturating_sub(now));
        let soonest = waits.enumerate().min_by_key(|(index, wait)| (*wait, *index));
        let (index, wait) = soonest.unwrap_or_default();
        (index, now.saturating_add(wait))
    }

    /// An attempt failed, or a connection was lost. `chance` is a number from 0 to 1 for the jitter: the
    /// hosts of a site must not all reconnect at the same moment.
    pub(crate) fn failed(&mut self, index: usize, trouble: RetryClass, now: Duration, chance: f64) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let (first, longest) = trouble.pauses();
        let doubled = first.saturating_mul(1 << server.failures.min(MAX_DOUBLINGS));
        let pause = doubled.min(longest).mul_f64(1.0 + chance.clamp(0.0, 1.0) / 2.0);
        server.failures = server.failures.saturating_add(1);
        server.not_before = now.saturating_add(pause);
    }

    /// The address works: its next failure counts as the first.
    pub(crate) fn worked(&mut self, index: usize) {
        if let Some(server) = self.servers.get_mut(index) {
            server.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn dead_master_is_retried_for_ever() {
        let (mut retry, mut now) = (Retry::new(1), secs(0));
        for pause in [500, 1000, 2000, 4000, 4000, 4000] {
            let (index, at) = retry.next(now);
            assert_eq!((index, at), (0, now));
            retry.failed(0, RetryClass::Network, now, 0.0);
            now += Duration::from_millis(pause);
            assert_eq!(retry.next(secs(0)).1, now, "after a pause of {pause} ms");
        }
        for _ in 0..1000 {
            retry.failed(0, RetryClass::Network, now, 1.0);
        }
        assert_eq!(retry.next(now).1, now + secs(6));
    }

    #[test]
    fn refusal_pauses_long_enough_for_master_of_3_12() {
        let mut retry = Retry::new(1);
        retry.failed(0, RetryClass::Refused, secs(0), 0.5);
        assert_eq!(retry.next(secs(0)).1, secs(25));
        for _ in 0..20 {
            retry.failed(0, RetryClass::Refused, secs(0), 0.0);
        }
        assert_eq!(retry.next(secs(0)).1, secs(300));
    }

    #[test]
    fn next_address_is_tried_at_once_and_first_after_its_pause() {
        let mut retry = Retry::new(3);
        retry.failed(0, RetryClass::Network, secs(100), 0.0);
        assert_eq!(retry.next(secs(100)), (1, secs(100)));
        retry.failed(1, RetryClass::Refused, secs(100), 0.0);
        assert_eq!(retry.next(secs(100)), (2, secs(100)));
        retry.failed(2, RetryClass::Network, secs(100), 0.2);
        assert_eq!(retry.next(secs(100)), (0, secs(100) + Duration::from_millis(500)));
        assert_eq!(retry.next(secs(500)), (0, secs(500)));
    }

    #[test]
    fn success_resets_the_pause() {
        let mut retry = Retry::new(1);
        for _ in 0..5 {
            retry.failed(0, RetryClass::Network, secs(0), 0.0);
        }
        retry.worked(0);
        retry.failed(0, RetryClass::Network, secs(0), 0.0);
        assert_eq!(retry.next(secs(0)).1, Duration::from_millis(500));
    }
}
