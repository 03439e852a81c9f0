//! The kick socket: is the list of this frontend up to date?
//!
//! A MUPDATE slave listens on the unix stream socket `socket/mupdate.target` below Cyrus'
//! `configdirectory`. Who connects waits there for the two bytes `ok`: they come once the slave has
//! made a NOOP round trip to the master, so whatever the master knew when we connected stands in
//! `mailboxes.db` by then. End of file, a refused connection or silence mean that the slave has no
//! master. (Cyrus `imap/mupdate-slave.c`, `imap/mupdate-client.c:kick_mupdate`; lmtpd throws the
//! result away, which is how it comes to bounce letters while the master is down.)
//!
//! A slave serves at most five waiters per round trip and its listen backlog is ten, so kicks are
//! shared, never sent one per miss.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::shown::ShownBytes;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Waits until the list holds everything the master knew when this was called. Blocks for at most
/// about `patience`. The error text is for the postmaster.
pub fn kick(path: &Path, patience: Duration) -> Result<(), Doubt> {
    let deadline = Instant::now() + patience;
    let told = |what: &str, e: io::Error| {
        let (kind, why) = match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                (DoubtKind::TimedOut, format!("no answer within {} s", patience.as_secs_f32()))
            }
            _ => (DoubtKind::Unreachable, e.to_string()),
        };
        let path = path.display();
        Doubt::new(kind, format_args!("{what} the MUPDATE slave's socket {path}: {why}"))
    };
    let mut stream = connect_to(path, patience).map_err(|e| told("cannot connect to", e.into()))?;
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

/// Connecting blocks while the backlog is full; the send timeout bounds that (unix(7)).
pub(crate) fn connect_to(path: &Path, patience: Duration) -> nix::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let micros = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX / 2).max(1);
    let timeout = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
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
    fn a_slave_that_is_not_there_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let told = kick(&dir.path().join("mupdate.target"), Duration::from_secs(5)).unwrap_err();
        assert!(told.contains("mupdate.target") && told.contains("No such file"), "{told}");
    }

    #[test]
    fn a_silent_slave_holds_us_up_no_longer_than_our_patience() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mupdate.target");
        let _listener = UnixListener::bind(&path).unwrap();
        let told = kick(&path, Duration::from_millis(20)).unwrap_err();
        assert!(told.contains("no answer"), "{told}");
    }
}
