//! The syslog daemon of a run: it reads the logs of Cyrus and Postfix, and counts deliveries.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::{Done, ensure, sandbox};

/// Longest time for the deliveries of a slice.
const EVENT_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Counted {
    sent: usize,
    /// Postfix' log of the first delivery with another result.
    failed: Option<String>,
}

/// Counts so far.
pub struct Syslog(Arc<(Mutex<Counted>, Condvar)>);

impl Syslog {
    /// Listens at the root's /dev/log until the end of the run.
    pub fn listen() -> Done<Self> {
        let socket = sandbox::in_root("/dev/log");
        let _ = fs::remove_file(&socket);
        let datagrams = UnixDatagram::bind(&socket)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
        let syslog = Self(Arc::default());
        let shared = syslog.0.clone();
        std::thread::spawn(move || {
            let mut line = vec![0; 65536];
            while let Ok(length) = datagrams.recv(&mut line) {
                let line = String::from_utf8_lossy(&line[..length]);
                if let Some((_, status)) = line.split_once(" status=") {
                    let mut counted = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                    match status.starts_with("sent ") {
                        true => counted.sent += 1,
                        false => _ = counted.failed.get_or_insert_with(|| line.into_owned()),
                    }
                    shared.1.notify_all();
                }
            }
        });
        Ok(syslog)
    }

    /// Waits until Postfix has delivered to this number of recipients since the beginning.
    pub fn wait_sent(&self, wanted: usize) -> Done {
        let (counts, changed) = &*self.0;
        let counted = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let going_on = |counted: &mut Counted| counted.failed.is_none() && counted.sent < wanted;
        let (counted, _) = changed
            .wait_timeout_while(counted, EVENT_TIMEOUT, going_on)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = &counted.failed {
            return Err(format!("not delivered: {failed}").into());
        }
        ensure!(counted.sent >= wanted, "{} of {wanted} delivered in time", counted.sent);
        Ok(())
    }
}
