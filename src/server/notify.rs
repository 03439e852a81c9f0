//! What the service manager is told, by systemd's protocol sd_notify(3). Without a service manager
//! (`NOTIFY_SOCKET` is not set) nothing happens. The environment is read and left as it is.
//!
//! Nothing here waits for the service manager, and what was opened once needs no other descriptor: a
//! daemon without a free one must not be taken for one that hangs.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// The socket to the service manager, once something was told.
static SOCKET: Mutex<Option<UnixDatagram>> = Mutex::new(None);

/// A service manager that has too much to read is told again so often, with this pause.
const RETRIES: u32 = 100;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The daemon answers.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The configuration is being read again. [`ready`] has to follow, also when that fails.
pub fn reloading() {
    // `Type=notify-reload` wants the time with it and kills the service without (systemd 253).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("no monotonic clock: {error}"),
    }
}

/// The daemon is on its way out.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// How often the service manager wants to hear that we are alive: half of what it waits for
/// (`WatchdogSec=`), as sd_watchdog_enabled(3) advises. `None`: never.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|wait| wait / 2).filter(|interval| !interval.is_zero())
}

/// The main loop runs. Nothing comes of a message that finds no room: another follows.
pub fn alive() {
    if let Some(manager) = std::env::var_os(NOTIFY_SOCKET) {
        let _ = send(&manager, &text_of(&[NotifyState::Watchdog]));
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// A line end would begin the next assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn tell(states: &[NotifyState]) {
    let Some(manager) = std::env::var_os(NOTIFY_SOCKET) else { return };
    let text = text_of(states);
    match send(&manager, &text) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => later(manager, text),
        Err(error) => complain(&error),
    }
}

/// Tells it from a thread that may wait.
fn later(manager: OsString, text: String) {
    let retry = move || {
        for _ in 0..RETRIES {
            thread::sleep(RETRY_INTERVAL);
            match send(&manager, &text) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return complain(&error),
            }
        }
        complain(&io::ErrorKind::TimedOut.into());
    };
    if let Err(error) = thread::Builder::new().name("notify".to_owned()).spawn(retry) {
        complain(&error);
    }
}

fn complain(error: &io::Error) {
    tracing::warn!("cannot tell the service manager: {error}");
}

fn text_of(states: &[NotifyState<'_>]) -> String {
    let mut text = String::new();
    for state in states {
        let _ = writeln!(text, "{state}");
    }
    text
}

/// Sends without waiting, over the socket that is there, or else over a new one.
fn send(manager: &OsStr, text: &str) -> io::Result<()> {
    let mut socket = SOCKET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = &*socket {
        match open.send(text.as_bytes()) {
            // The service manager has another socket by now.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
            sent => return sent.map(drop),
        }
    }
    let sent = connect(manager)?;
    sent.send(text.as_bytes())?;
    *socket = Some(sent);
    Ok(())
}

/// A path, or a name in the abstract namespace after `@`: sd_notify(3).
fn connect(manager: &OsStr) -> io::Result<UnixDatagram> {
    let address = match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(manager)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    /// A service manager that does not read holds up nobody, and gets the message in the end.
    #[test]
    fn full_notify_socket_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let filler = super::connect(path.as_os_str()).unwrap();
        while filler.send(b"full").is_ok() {}
        let full = super::send(path.as_os_str(), "READY=1\n").unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
        super::later(path.into(), "READY=1\n".into());
        let mut message = [0; 20];
        loop {
            let read = manager.recv(&mut message).unwrap();
            if message[..read] == *b"READY=1\n" {
                break;
            }
        }
    }

    /// The environment of a process cannot be changed safely once it has threads, so this test
    /// runs itself again in a child with `NOTIFY_SOCKET` set.
    #[test]
    fn service_manager_gets_the_expected_messages() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            super::ready("2 listeners\nSTOPPING=1");
            super::reloading();
            assert_eq!(super::watchdog_interval(), Some(Duration::from_secs(15)));
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            super::alive();
            assert_eq!(open(), before, "a sign of life needs no descriptor");
            super::stopping();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::notify::tests::service_manager_gets_the_expected_messages"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000")
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let receive = || {
            let mut message = [0; 200];
            let n = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..n].to_vec()).unwrap()
        };
        assert_eq!(receive(), "READY=1\nSTATUS=2 listeners STOPPING=1\n");
        let reloading = receive();
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.trim_end().parse::<u64>().unwrap() > 0);
        assert_eq!(receive(), "WATCHDOG=1\n");
        assert_eq!(receive(), "STOPPING=1\n");
    }
}
