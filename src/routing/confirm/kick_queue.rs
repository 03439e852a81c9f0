//! One kick for many misses.
//!
//! A miss is believed only after the MUPDATE slave has caught up with its master. However many
//! unknown names are requested, only a few kicks a second are sent: every miss waits for the
//! next kick that *begins* after its arrival, and shares it with all other waiters.

use std::time::Duration;

/// The waiters for a kick.
#[derive(Debug)]
pub struct KickQueue<W> {
    interval: Duration,
    waiting: Vec<W>,
    /// Waiters for the kick in progress.
    served: Option<Vec<W>>,
    /// Earliest start of the next kick.
    next: Duration,
}

impl<W> KickQueue<W> {
    /// Creates an empty queue. `interval`: minimum time between the starts of two kicks.
    pub fn new(interval: Duration) -> Self {
        Self { interval, waiting: Vec::new(), served: None, next: Duration::ZERO }
    }

    /// Adds a waiter for a kick that starts from now on.
    pub fn wait(&mut self, waiter: W) {
        self.waiting.push(waiter);
    }

    /// Time to call [`begin`](Self::begin); `None` while a kick is in progress or without waiters.
    pub fn due(&self) -> Option<Duration> {
        (self.served.is_none() && !self.waiting.is_empty()).then_some(self.next)
    }

    /// Starts a kick for all waiters, if one is due.
    pub fn begin(&mut self, now: Duration) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.next = now + self.interval;
            self.served = Some(std::mem::take(&mut self.waiting));
        }
        is_due
    }

    /// Ends the kick. Returns its waiters.
    pub fn end(&mut self) -> Vec<W> {
        self.served.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_miss_does_not_share_the_kick_in_progress() {
        let ms = Duration::from_millis;
        let mut queue = KickQueue::new(ms(250));
        assert_eq!(queue.due(), None);
        queue.wait("a");
        queue.wait("b");
        assert!(queue.begin(ms(1_000)));
        queue.wait("c");
        assert_eq!(queue.due(), None);
        assert!(!queue.begin(ms(1_100)));
        assert_eq!(queue.end(), ["a", "b"]);
        assert_eq!(queue.due(), Some(ms(1_250)));
        assert!(!queue.begin(ms(1_249)));
        assert!(queue.begin(ms(1_250)));
        assert_eq!(queue.end(), ["c"]);
        assert_eq!(queue.due(), None);
    }
}
