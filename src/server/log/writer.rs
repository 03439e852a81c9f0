//! The thread that writes the log.
//!
//! The destination of the log can be slow or stall: a full disk, a pipe whose reader hangs or is gone. No
//! thread that answers mail servers may wait for it, so lines go through a bounded queue to a thread of
//! their own. A line is lost and counted if the queue is full or the write fails.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum size of the queued lines, in bytes.
const QUEUE_LIMIT: usize = 1 << 20;

/// Pause before a retry on a descriptor that another process made non-blocking.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Lines on their way to the log. Shared by threads.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    /// Size of `lines`.
    bytes: usize,
    /// Whether a line is being written.
    writing: bool,
    /// Number of lines lost since the start.
    lost: u64,
    /// Number of lost lines not reported in the log yet.
    unreported: u64,
}

impl QueueState {
    fn lose_one(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.unreported = self.unreported.saturating_add(1);
    }
}

impl Queue {
    /// Starts the thread that writes to `log`. `lost_line` formats the report of lost lines.
    ///
    /// # Errors
    ///
    /// If no thread can be started. Lines are then counted as lost once the queue is full.
    pub(super) fn write_to(
        self: &Arc<Self>,
        log: impl Write + Send + 'static,
        lost_line: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<()> {
        let queue = Arc::clone(self);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || queue.run(log, lost_line)).map(drop)
    }

    /// Takes a line with its line end. Never waits for the log.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.bytes.saturating_add(line.len()) > QUEUE_LIMIT {
            state.lose_one();
            return;
        }
        state.bytes = state.bytes.saturating_add(line.len());
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until all lines are written or lost, at most for this time.
    pub(super) fn flush(&self, limit: Duration) {
        let began = Instant::now();
        let mut state = self.lock();
        while state.writing || !state.lines.is_empty() {
            let Some(left) = limit.checked_sub(began.elapsed()).filter(|left| !left.is_zero())
            else {
                return;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Number of lines lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut log: impl Write, lost_line: impl Fn(u64) -> Vec<u8>) {
        // Whether the log ends within a line.
        let mut torn = false;
        loop {
            let (line, unreported) = self.next();
            let reported =
                unreported == 0 || write_line(&mut log, &lost_line(unreported), &mut torn);
            let written = reported && write_line(&mut log, &line, &mut torn);
            let mut state = self.lock();
            state.writing = false;
            if reported {
                state.unreported = state.unreported.saturating_sub(unreported);
            }
            if !written {
                state.lose_one();
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next line, and the number of unreported lost lines before it.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes = state.bytes.saturating_sub(line.len());
                state.writing = true;
                return (line, state.unreported);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes a line, and returns whether it was written completely. `torn`: whether the log ends within a
/// line.
fn write_line(log: &mut impl Write, line: &[u8], torn: &mut bool) -> bool {
    if *torn && write_all(log, b"\n").is_err() {
        return false;
    }
    *torn = false;
    match write_all(log, line) {
        Ok(()) => true,
        Err(written) => {
            *torn = written > 0;
            false
        }
    }
}

/// Writes all bytes. On failure returns the number of bytes written.
fn write_all(log: &mut impl Write, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match log.write(rest) {
            Ok(0) => return Err(written),
            Ok(more) => written = written.saturating_add(more),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The open file is shared with the shell or supervisor that started this process.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(RETRY_INTERVAL);
            }
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// A log whose writes take a number of bytes or fail, as scripted.
    struct ScriptedLog {
        now: Receiver<Result<usize, i32>>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for ScriptedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.now.recv().unwrap_or(Ok(usize::MAX)) {
                Ok(most) => {
                    let taken = bytes[..bytes.len().min(most)].to_vec();
                    let _ = self.taken.send(taken.clone());
                    Ok(taken.len())
                }
                Err(code) => Err(io::Error::from_raw_os_error(code)),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lost_line(lost: u64) -> Vec<u8> {
        format!("{lost} lost\n").into_bytes()
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Final content of a log whose writes have these results, and the number of lost lines.
    fn log_of(fates: &[Result<usize, i32>], lines: &[&str]) -> (String, u64) {
        let (tell, now) = mpsc::channel();
        let (taken, takes) = mpsc::channel();
        for fate in fates {
            tell.send(*fate).unwrap();
        }
        drop(tell);
        let queue = Arc::new(Queue::default());
        queue.write_to(ScriptedLog { now, taken }, lost_line).unwrap();
        for line in lines {
            queue.push(line.as_bytes().to_vec());
            queue.flush(LONG);
        }
        let all: Vec<u8> = takes.try_iter().flatten().collect();
        (String::from_utf8(all).unwrap(), queue.lost())
    }

    #[test]
    fn failed_write_loses_its_line_and_is_reported_later() {
        let full = Err(libc::ENOSPC);
        assert_eq!(log_of(&[], &["a\n", "b\n"]), ("a\nb\n".to_owned(), 0));
        let (text, lost) = log_of(&[full, full], &["a\n", "b\n", "c\n"]);
        assert_eq!((text.as_str(), lost), ("2 lost\nc\n", 2));
        // The report itself can fail, and is then repeated.
        let (text, lost) = log_of(&[full, full, Ok(9), full], &["a\n", "b\n", "c\n", "d\n"]);
        assert_eq!((text.as_str(), lost), ("2 lost\n1 lost\nd\n", 3));
    }

    #[test]
    fn torn_line_is_ended_before_the_next() {
        let fates = [Ok(2), Err(libc::ENOSPC), Err(libc::ENOSPC)];
        let (text, lost) = log_of(&fates, &["torn\n", "b\n", "c\n"]);
        assert_eq!((text.as_str(), lost), ("to\n2 lost\nc\n", 2));
    }

    #[test]
    fn interrupted_and_non_blocking_writes_are_tried_again() {
        let fates = [Err(libc::EINTR), Err(libc::EAGAIN), Ok(1), Err(libc::EINTR)];
        assert_eq!(log_of(&fates, &["whole\n"]), ("whole\n".to_owned(), 0));
    }

    #[test]
    fn stalled_log_blocks_no_caller_and_bounds_its_queue() {
        let (log, mut reader) = UnixStream::pair().unwrap();
        let queue = Arc::new(Queue::default());
        queue.write_to(log, lost_line).unwrap();
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        let sent = 4 * QUEUE_LIMIT / line.len();
        for _ in 0..sent {
            queue.push(line.clone());
        }
        assert!(queue.lock().bytes <= QUEUE_LIMIT);
        let lost = queue.lost();
        assert!(lost > 0);
        queue.flush(Duration::from_millis(10));
        // The reader resumes.
        let read = thread::spawn(move || {
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            while !text.ends_with(b"the end\n") {
                let read = reader.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..read]);
            }
            text
        });
        queue.flush(LONG);
        queue.push(b"the end\n".to_vec());
        let text = read.join().unwrap();
        let note = format!("{lost} lost\n");
        assert_eq!(text.len(), (sent - lost as usize) * line.len() + note.len() + 8);
        assert!(text.windows(note.len()).any(|piece| piece == note.as_bytes()));
    }
}
