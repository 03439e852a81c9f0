//! What the service manager is told, by systemd's protocol sd_notify(3). Without a service manager
//! (`NOTIFY_SOCKET` is not set) nothing happens. The environment is read and left as it is.

use sd_notify::NotifyState;

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

/// A line end would begin the next assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    /// The environment of a process cannot be changed safely once it has threads, so this test
    /// runs itself again in a child with `NOTIFY_SOCKET` set.
    #[test]
    fn the_service_manager_reads_what_it_expects() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            super::ready("2 listeners\nSTOPPING=1");
            super::reloading();
            super::stopping();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::notify::tests::the_service_manager_reads_what_it_expects"])
            .env("NOTIFY_SOCKET", &path)
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
        assert_eq!(receive(), "STOPPING=1\n");
    }
}
