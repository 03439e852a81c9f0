//! The MUPDATE servers of the site, and the login to one of them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::connection::Connection;
use super::tls::{self, TlsClient};
use crate::config::{self, MasterAddress, Mupdate};
use crate::mupdate::{Credentials, Failure, Login, Need, Policy, Session, Step, Timings, WhenTls};

/// Timeout of a send.
const SEND: Duration = Duration::from_secs(10);

/// Timeout to read the files of TLS, and to hash a password as a server demands: 600,000 rounds of SCRAM
/// take a second or two.
const OFF_THREAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of bytes read at once.
pub(crate) const PIECE: usize = 64 * 1024;

/// The MUPDATE servers, with all that a login needs.
#[derive(Debug)]
pub struct Upstream {
    servers: Vec<MasterAddress>,
    policy: Policy,
    credentials: Credentials,
    tls_files: config::TlsSettings,
    negative_cache: Option<Duration>,
    /// TLS by the files as last read successfully.
    tls: std::sync::Mutex<TlsClient>,
    /// Held while the files are read: a file system that hangs must not take one thread after another.
    reading: Arc<Semaphore>,
    clock: Clock,
    /// Held while a login that may want TLS is under way: mupdate sets its TLS up with the first
    /// STARTTLS, in whichever thread that comes, and two at once leave it with half of each: one
    /// handshake fails, and the process dies later (seen with 3.6.1; no lock in
    /// `imap/tls.c:tls_init_serverengine` of any release).
    one_by_one: Mutex<()>,
}

/// Time since the start, for the parts without a clock of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// Waits until a time. `None`: never returns.
    pub(crate) async fn reach(self, moment: Option<Duration>) {
        match moment {
            Some(moment) => sleep_until(self.0 + moment).await,
            None => std::future::pending().await,
        }
    }
}

impl Upstream {
    /// Reads the files that TLS needs. The error says which one cannot be used.
    pub fn new(mupdate: &Mupdate) -> Result<Self, String> {
        if let Some(name) = &mupdate.tls.name {
            tls::server_name(name)?;
        }
        let policy = Policy {
            tls: mupdate.tls.when,
            allow_plaintext: mupdate.allow_plaintext,
            master: mupdate.master.clone(),
            need: Need::default(),
            mechanisms: mupdate.mechanisms.clone(),
            timings: Timings::default(),
        };
        Ok(Self {
            servers: mupdate.servers.clone(),
            policy,
            credentials: mupdate.credentials.clone(),
            tls: std::sync::Mutex::new(TlsClient::new(&mupdate.tls)?),
            tls_files: mupdate.tls.clone(),
            negative_cache: mupdate.negative_cache,
            reading: Arc::new(Semaphore::new(1)),
            clock: Clock::new(),
            one_by_one: Mutex::new(()),
        })
    }

    /// Replaces the timeouts.
    #[cfg(test)]
    pub(crate) fn with_timings(mut self, timings: Timings) -> Self {
        self.policy.timings = timings;
        self
    }

    /// Time for which a miss confirmed by the master is cached.
    pub(super) fn negative_cache(&self) -> Option<Duration> {
        self.negative_cache
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn servers(&self) -> &[MasterAddress] {
        &self.servers
    }

    /// The servers as text.
    pub(crate) fn named(&self) -> String {
        self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn timings(&self) -> Timings {
        self.policy.timings
    }

    /// TLS with the present certificates: they are renewed every few months while the daemon runs.
    /// If files cannot be used (half written, or not readable any more), the previous ones stay in use.
    async fn tls(&self) -> TlsClient {
        let files = self.tls_files.clone();
        let reading = Arc::clone(&self.reading);
        let read = timeout(OFF_THREAD_TIMEOUT, async {
            let turn = reading.acquire_owned().await.ok();
            spawn_blocking(move || {
                let _turn = turn;
                TlsClient::new(&files)
            })
            .await
        })
        .await;
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(Ok(Ok(read))) => *tls = read,
            Ok(Ok(Err(why))) => warn!("TLS to the MUPDATE server as it was before: {why}"),
            // The panic hook has reported it, or the runtime ends.
            Ok(Err(_)) => {}
            Err(_) => warn!(
                "TLS to the MUPDATE server as it was before: its files could not be read within {} s",
                OFF_THREAD_TIMEOUT.as_secs()
            ),
        }
        tls.clone()
    }

    /// Connects to the server with this number and logs in, one after the other where TLS may be used.
    pub(crate) async fn log_in(
        &self,
        server: usize,
        need: Need,
    ) -> Result<(Connection, Session), Failure> {
        let _turn = match self.policy.tls {
            WhenTls::Off => None,
            WhenTls::IfOffered | WhenTls::Required => Some(self.one_by_one.lock().await),
        };
        let Some(address) = self.servers.get(server) else {
            return Err(Failure::Network("no MUPDATE server is configured".into()));
        };
        let stream = Connection::open(address).await.map_err(Failure::Network)?;
        let mut connection = Connection::plain(stream);
        let policy = Policy { need, ..self.policy.clone() };
        let mut login = Login::new(policy, self.credentials.clone(), self.clock.now());
        let mut piece = vec![0; 4096];
        loop {
            let output = std::mem::take(login.output());
            send(&mut connection, &output).await?;
            match login.step() {
                Step::Wait => {
                    tokio::select! {
                        biased;
                        read = connection.read(&mut piece) => {
                            match read.map_err(|e| Failure::Network(e.to_string()))? {
                                0 => login.closed(),
                                read => {
                                    let said = bytes(&piece, read).to_vec();
                                    login = heard(login, said, self.clock.now()).await?;
                                }
                            }
                        }
                        () = self.clock.reach(login.deadline()) => login.tick(self.clock.now()),
                    }
                }
                Step::StartTls => {
                    let files = &self.tls_files;
                    let name = files.name.as_deref().unwrap_or(&address.host);
                    let tls = self.tls().await;
                    let begun = connection.under_tls(&tls, name).await;
                    connection =
                        begun.map_err(|e| tls::failure(&e, name, files.ca_file.as_deref()))?;
                    login.tls_is_up(self.clock.now(), tls.shows_certificate);
                }
                Step::In(session) => return Ok((connection, session)),
                Step::Failed(failure) => return Err(failure),
            }
        }
    }
}

/// The login after these bytes of the server. Runs outside the runtime's thread: the server decides how
/// often a password is hashed.
async fn heard(mut login: Login, said: Vec<u8>, now: Duration) -> Result<Login, Failure> {
    let hashed = spawn_blocking(move || {
        login.receive(&said, now);
        login
    });
    match timeout(OFF_THREAD_TIMEOUT, hashed).await {
        Ok(Ok(login)) => Ok(login),
        Ok(Err(_)) => Err(Failure::Network("the login failed inside (a bug)".into())),
        Err(_) => Err(Failure::Timeout("the login took this host too long: is it overloaded?")),
    }
}

/// The part of a buffer that was read.
pub(crate) fn bytes(piece: &[u8], read: usize) -> &[u8] {
    piece.get(..read).unwrap_or_default()
}

/// Sends, with a timeout in case the server stops reading.
pub(crate) async fn send(connection: &mut Connection, bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    match timeout(SEND, connection.send(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Network(error.to_string())),
        Err(_) => Err(Failure::Timeout("the MUPDATE server does not read what is sent to it")),
    }
}
