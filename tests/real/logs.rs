//! The syslog of the run: every line of Cyrus and Postfix, to search and to wait for.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Done;

/// One line: the program, such as `be1/lmtp` or `postfix/smtpd`, and the text.
#[derive(Clone, Debug)]
pub struct Line {
    pub program: String,
    pub text: String,
}

/// Collects datagrams that arrive at the root's /dev/log.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<(Mutex<Vec<Line>>, Condvar)>,
}

/// A position in the log.
#[derive(Clone, Copy)]
pub struct Mark(usize);

impl Logs {
    /// Listens at `socket`. Everything is also written to `copy`, for later reading.
    pub fn listen(socket: &str, copy: &Path) -> Done<Self> {
        let _ = fs::remove_file(socket);
        let datagrams = UnixDatagram::bind(socket)?;
        fs::set_permissions(socket, Permissions::from_mode(0o666))?;
        let mut copy = File::create(copy)?;
        let logs = Self { shared: Arc::default() };
        let shared = Arc::clone(&logs.shared);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok(length) = datagrams.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let line = parse(&text);
                let _ = writeln!(copy, "{}: {}", line.program, line.text);
                lock(&shared.0).push(line);
                shared.1.notify_all();
            }
        });
        Ok(logs)
    }

    /// The present end of the log.
    pub fn mark(&self) -> Mark {
        Mark(lock(&self.shared.0).len())
    }

    /// Lines since `mark` of programs whose name begins with `program`.
    pub fn since(&self, mark: Mark, program: &str) -> Vec<Line> {
        let lines = lock(&self.shared.0);
        let newer = lines.get(mark.0..).unwrap_or_default();
        newer.iter().filter(|line| line.program.starts_with(program)).cloned().collect()
    }

    /// Waits until `wanted` returns a value for the lines since `mark`. It gets all of them at each change.
    pub fn wait<T>(
        &self,
        what: &str,
        mark: Mark,
        seconds: u64,
        mut wanted: impl FnMut(&[Line]) -> Option<T>,
    ) -> Done<T> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut lines = lock(&self.shared.0);
        loop {
            if let Some(found) = wanted(lines.get(mark.0..).unwrap_or_default()) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("waited {seconds} s in the log for {what}").into());
            }
            lines =
                self.shared.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock(lines: &Mutex<Vec<Line>>) -> MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `<22>Nov 23 16:19:00 postfix/smtpd[123]: text`, as the C library's syslog() sends it.
fn parse(datagram: &str) -> Line {
    let after_priority = datagram.split_once('>').map_or(datagram, |(_, rest)| rest);
    let after_time = after_priority.get(16..).unwrap_or(after_priority);
    let (tag, text) = after_time.split_once(": ").unwrap_or(("?", after_time));
    let program = tag.split('[').next().unwrap_or(tag);
    Line { program: program.to_owned(), text: text.trim_end_matches(['\n', '\0']).to_owned() }
}
