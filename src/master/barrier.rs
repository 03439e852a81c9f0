//! One kick for many misses.
//!
//! A miss is believed only after the MUPDATE slave has caught up with its master. A few kicks a second
//! are sent, whatever the number of misses: every miss waits for the next kick that *begins* after it
//! arrived, and shares that kick with all others that wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::model::doubt::{Doubt, DoubtKind};
use crate::routing::confirm::kick_queue::KickQueue;

/// Maximum number of misses that wait. A further one fails at once.
const MOST_WAITING: usize = 4096;

/// Result of a kick.
pub(crate) type Kicked = Result<(), Doubt>;

/// Queue of the misses. Shared by tasks; dropping the last clone ends the task behind it.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    waiting: mpsc::Sender<oneshot::Sender<Kicked>>,
}

impl Barrier {
    /// Starts the task that kicks, with this interval between the beginnings of two kicks. `kick` may block:
    /// it is called on a thread for that.
    pub(crate) fn new(pause: Duration, kick: impl Fn() -> Kicked + Send + Sync + 'static) -> Self {
        let (waiting, arrivals) = mpsc::channel(MOST_WAITING);
        tokio::spawn(run(arrivals, pause, Arc::new(kick)));
        Self { waiting }
    }

    /// Waits for a kick that begins after this call.
    pub(crate) async fn wait(&self) -> Kicked {
        let (tell, told) = oneshot::channel();
        if self.waiting.try_send(tell).is_err() {
            return Err(Doubt::new(DoubtKind::GivenUp, "too many misses wait to be confirmed"));
        }
        let text = "the task that confirms misses is gone";
        told.await.unwrap_or_else(|_| Err(Doubt::new(DoubtKind::GivenUp, text)))
    }
}

async fn run(
    mut arrivals: mpsc::Receiver<oneshot::Sender<Kicked>>,
    interval: Duration,
    kick: Arc<impl Fn() -> Kicked + Send + Sync + 'static>,
) {
    let started = Instant::now();
    let mut queue = KickQueue::new(interval);
    while let Some(first) = arrivals.recv().await {
        queue.wait(first);
        while let Some(due) = queue.due() {
            sleep_until(started + due).await;
            while let Ok(another) = arrivals.try_recv() {
                queue.wait(another);
            }
            if !queue.begin(started.elapsed()) {
                continue;
            }
            let kick = Arc::clone(&kick);
            let kicked = match tokio::task::spawn_blocking(move || kick()).await {
                Ok(kicked) => kicked,
                Err(_) => {
                    let text = "asking the MUPDATE slave failed inside (a bug)";
                    Err(Doubt::new(DoubtKind::GivenUp, text))
                }
            };
            for waiter in queue.end() {
                // A waiter that is gone has reached its deadline.
                let _ = waiter.send(kicked.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::confirm::KICK_INTERVAL;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc as std_mpsc;

    #[tokio::test(start_paused = true)]
    async fn concurrent_misses_share_a_kick() {
        let kicks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&kicks);
        let barrier = Barrier::new(KICK_INTERVAL, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let waits: Vec<_> = (0..1000)
            .map(|_| {
                let barrier = barrier.clone();
                tokio::spawn(async move { barrier.wait().await })
            })
            .collect();
        for wait in waits {
            assert_eq!(wait.await.unwrap(), Ok(()));
        }
        // The first may have had a kick of its own; all others share the next.
        assert!(kicks.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn miss_never_shares_a_kick_that_began_earlier() {
        let (began, begins) = std_mpsc::channel();
        let (finish, finishes) = std_mpsc::channel::<Kicked>();
        let finishes = Mutex::new(finishes);
        let barrier = Barrier::new(KICK_INTERVAL, move || {
            began.send(()).unwrap();
            finishes.lock().unwrap().recv().unwrap()
        });
        let wait = || {
            let barrier = barrier.clone();
            tokio::spawn(async move { barrier.wait().await })
        };
        let early = wait();
        let begins = tokio::task::spawn_blocking(move || {
            begins.recv().unwrap();
            begins
        });
        let begins = begins.await.unwrap();
        let late = wait();
        // Lets the late waiter enter the queue before the first kick ends.
        tokio::task::yield_now().await;
        finish.send(Ok(())).unwrap();
        assert_eq!(early.await.unwrap(), Ok(()));
        assert!(!late.is_finished());
        tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
        let no_master = || Err(Doubt::new(DoubtKind::Unreachable, "no master"));
        finish.send(no_master()).unwrap();
        assert_eq!(late.await.unwrap(), no_master());
    }

    #[tokio::test]
    async fn panicking_kick_confirms_nothing() {
        let barrier = Barrier::new(KICK_INTERVAL, || panic!("a bug"));
        assert!(barrier.wait().await.is_err());
        assert!(barrier.wait().await.is_err());
    }
}
