//! Messages to the service manager, by systemd's protocol sd_notify(3). Without a service manager
//! (`NOTIFY_SOCKET` is not set) nothing is sent. The environment is only read.
//!
//! Nothing here waits for the service manager, and the socket stays open: a daemon without a free
//! descriptor must not look as if it hangs.

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

/// The socket to the service manager, once a message was sent.
static SOCKET: Mutex<Option<UnixDatagram>> = Mutex::new(None);

/// Maximum number of retries if the socket is full.
const MAX_RETRIES: u32 = 100;

/// Pause between retries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Reports that the daemon answers.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Reports that the configuration is being reloaded. [`ready`] must follow, also after a failed reload.
pub fn reloading() {
    // `Type=notify-reload` needs the time too, and kills the service without it (systemd 253).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(
            "cannot read the monotonic clock: {error}; systemd may report the reload as failed"
        ),
    }
}

/// Reports that the daemon is stopping.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Sets the status line of `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(&one_line(text))]);
}

/// Interval of keep-alive messages: half of `WatchdogSec=`, as sd_watchdog_enabled(3) advises. `None`: none
/// are expected.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|wait| wait / 2).filter(|interval| !interval.is_zero())
}

/// Sends a keep-alive message. It is dropped if the socket is full: another follows.
pub fn alive() {
    if let Some(manager) = std::env::var_os(NOTIFY_SOCKET) {
        let _ = send(&manager, &text_of(&[NotifyState::Watchdog]));
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Replaces control characters: a line end would begin the next assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn notify(states: &[NotifyState]) {
    let Some(manager) = std::env::var_os(NOTIFY_SOCKET) else { return };
    let text = text_of(states);
    match send(&manager, &text) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => retry_later(manager, text),
        Err(error) => warn_not_sent(&error),
    }
}

/// Retries in a thread that may wait.
fn retry_later(manager: OsString, text: String) {
    let retry = move || {
        for _ in 0..MAX_RETRIES {
            thread::sleep(RETRY_INTERVAL);
            match send(&manager, &text) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return warn_not_sent(&error),
            }
        }
        warn_not_sent(&io::ErrorKind::TimedOut.into());
    };
    if let Err(error) = thread::Builder::new().name("notify".to_owned()).spawn(retry) {
        warn_not_sent(&error);
    }
}

fn warn_not_sent(error: &io::Error) {
    tracing::warn!("cannot notify the service manager: {error}");
}

fn text_of(states: &[NotifyState<'_>]) -> String {
    let mut text = String::new();
    for state in states {
        let _ = writeln!(text, "{state}");
    }
    text
}

/// Sends without waiting, over the open socket, or else over a new one.
fn send(manager: &OsStr, text: &str) -> io::Result<()> {
    let mut socket = SOCKET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = &*socket {
        match open.send(text.as_bytes()) {
            // The service manager has replaced its socket.
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

    /// A service manager that does not read delays nothing, and gets the message in the end.
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
        super::retry_later(path.into(), "READY=1\n".into());
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
            assert_eq!(open(), before, "a keep-alive message needs no descriptor");
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
