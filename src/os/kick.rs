//! The kick socket: asks the MUPDATE slave of this frontend to bring the list up to date.
//!
//! A MUPDATE slave listens on the unix stream socket `socket/mupdate.target` below Cyrus'
//! `configdirectory`. A client connects and waits for the two bytes `ok`. They come once the slave has
//! made a NOOP round trip to the master, so `mailboxes.db` then has everything that the master had
//! when the client connected. End of file, a refused connection or silence mean that the slave has no
//! master. (Cyrus `imap/mupdate-slave.c`, `imap/mupdate-client.c:kick_mupdate`; lmtpd ignores the
//! result, so it bounces messages while the master is down.)
//!
//! A slave serves at most five waiters per round trip and its listen backlog is ten, so callers share
//! kicks and never send one per miss.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use super::unix_connect::connect_to;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::shown::ShownBytes;

/// Waits until the list has everything that the master had at the time of the call. Blocks for about
/// `timeout` at most.
///
/// # Errors
///
/// If the slave cannot be reached, does not answer in time, or has no connection to its master.
pub fn kick(path: &Path, timeout: Duration) -> Result<(), Doubt> {
    let deadline = Instant::now() + timeout;
    let told = |what: &str, e: io::Error| {
        let (kind, why) = match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                (DoubtKind::TimedOut, format!("no answer within {} s", timeout.as_secs_f32()))
            }
            _ => (DoubtKind::Unreachable, e.to_string()),
        };
        let path = path.display();
        Doubt::new(kind, format_args!("{what} the MUPDATE slave's socket {path}: {why}"))
    };
    let mut stream = connect_to(path, timeout).map_err(|e| told("cannot connect to", e.into()))?;
    let mut got = Vec::with_capacity(2);
    while got.len() < 2 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(told("waiting at", io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(left)).map_err(|e| told("cannot wait at", e))?;
        let mut byte = [0; 2];
        match stream.read(&mut byte[..2 - got.len()]) {
            Ok(0) => {
                let path = path.display();
                return Err(Doubt::new(
                    DoubtKind::Unreachable,
                    format_args!(
                        "the MUPDATE slave at {path} hung up: it has no connection to its master"
                    ),
                ));
            }
            Ok(n) => got.extend_from_slice(&byte[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(told("waiting at", e)),
        }
    }
    if got == b"ok" {
        Ok(())
    } else {
        let (path, got) = (path.display(), ShownBytes(&got));
        let text = format_args!("the MUPDATE slave at {path} said `{got}` instead of `ok`");
        Err(Doubt::new(DoubtKind::Refused, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A slave that answers one waiter with these bytes and hangs up.
    fn slave_saying(answer: &'static [u8]) -> Result<(), Doubt> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mupdate.target");
        let listener = UnixListener::bind(&path).unwrap();
        let slave = thread::spawn(move || listener.accept().unwrap().0.write_all(answer).unwrap());
        let result = kick(&path, Duration::from_secs(5));
        slave.join().unwrap();
        result
    }

    #[test]
    fn only_ok_is_ok() {
        assert_eq!(slave_saying(b"ok"), Ok(()));
        assert!(slave_saying(b"").unwrap_err().contains("hung up"));
        assert!(slave_saying(b"o").unwrap_err().contains("hung up"));
        assert!(slave_saying(b"no").unwrap_err().contains("`no`"));
    }

    #[test]
    fn missing_slave_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let told = kick(&dir.path().join("mupdate.target"), Duration::from_secs(5)).unwrap_err();
        assert!(told.contains("mupdate.target") && told.contains("No such file"), "{told}");
    }

    #[test]
    fn silent_slave_is_not_waited_for_beyond_the_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mupdate.target");
        let _listener = UnixListener::bind(&path).unwrap();
        let told = kick(&path, Duration::from_millis(20)).unwrap_err();
        assert!(told.contains("no answer"), "{told}");
    }
}
