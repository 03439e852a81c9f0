//! `murder-route serve`: the daemon.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::services::Services;
use super::{Common, Exit};
use crate::config::{ConfigError, DEFAULT_SOCKET, Overrides, Settings};
use crate::resolver::Resolver;
use crate::server::answerer::Answerer;
use crate::server::source_watch::{self, SourceReport};
use crate::server::{Limits, Server, descriptors, list_watch, log, notify};
use crate::wire::endpoint::{Endpoint, Listen};

/// The name under which systemd passes the socket of our socket unit.
const SOCKET_UNIT: &str = "murder-route.socket";

/// Longest time for a reload to read its files. A disk or a file server that hangs must leave the old
/// configuration in force, and the daemon ready for the next signal.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Answer mail servers until told to stop.
///
/// SIGTERM and SIGINT finish what is in flight and stop. SIGHUP reads the configuration again, and
/// keeps the old one if the new one is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 after SIGTERM or SIGINT, 64 usage, 71 a socket or the \
                        replica cannot be opened, 78 configuration.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Where to listen: unix:PATH or inet:HOST:PORT; may be given again [default:
    /// unix:/run/murder-route]
    #[arg(long, value_name = "ENDPOINT")]
    listen: Vec<Endpoint>,
    /// Log every decision; twice: everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        log::init(log::level(self.verbose));
        // Connections have threads of their own; the runtime accepts, times and takes signals.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| {
                error!("cannot start: {e}");
                Exit::System
            })?;
        let _entered = runtime.enter();
        // By default it ends the process that writes a file beyond its limit (`ulimit -f`), be it the
        // log or the replica; caught, the write fails. An error would mean that this stays so.
        let _grown = signal(SignalKind::from_raw(libc::SIGXFSZ));
        let settings = settings(&self.given()).map_err(|e| {
            error!("{e}");
            Exit::Config
        })?;
        runtime.block_on(self.serve(settings))
    }

    fn given(&self) -> Overrides {
        self.common.overrides(&self.listen)
    }

    async fn serve(self, settings: Settings) -> Result<(), Exit> {
        // Before the sockets are there, so that no signal meets a daemon that is not ready for it.
        let mut signals = Signals::new().map_err(|e| {
            error!("cannot catch signals: {e}");
            Exit::System
        })?;
        let listen = listeners(&settings);
        let descriptors =
            descriptors::raise().inspect_err(|e| warn!("cannot open more files: {e}"));
        let limits = Limits {
            connections: settings.max_connections,
            descriptors: descriptors.ok(),
            ..Limits::default()
        };
        let mut behind = Services::of_daemon(&settings, None).map_err(|(exit, why)| {
            error!("{why}");
            exit
        })?;
        let resolver = Resolver::new(settings, behind.replica.clone());
        let answerer = Arc::new(Answerer::new(resolver, behind.master.clone()));
        let mut server = Server::new(Arc::clone(&answerer), limits).map_err(|e| {
            error!("{e}");
            Exit::System
        })?;
        answerer.count_connections(server.connections());
        server.reconcile(&listen).await.map_err(|e| {
            error!("{e}");
            Exit::System
        })?;
        let standing = Arc::new(SourceReport::default());
        let text = announce(&server, &answerer);
        standing.is(&text);
        notify::ready(&text);
        let watched = source_watch::watch(Arc::clone(&answerer), Arc::clone(&standing));
        let watching = tokio::spawn(watched);
        let mut watchdog = Watchdog::new();
        let reading = Arc::new(Semaphore::new(1));
        tokio::spawn(list_watch::keep(Arc::clone(&answerer)));
        loop {
            match watchdog.during(signals.next()).await {
                Told::Stop => break,
                Told::Reload => {
                    notify::reloading();
                    let reload = self.reload(&mut server, &answerer, &mut behind, &reading);
                    let reloaded = watchdog.during(async {
                        tokio::select! {
                            reloaded = reload => Some(reloaded),
                            () = signals.stop() => None,
                        }
                    });
                    let Some(reloaded) = reloaded.await else { break };
                    let status = match reloaded {
                        Ok(()) => {
                            let text = announce(&server, &answerer);
                            standing.is(&text);
                            text
                        }
                        Err(why) => {
                            error!("{why}");
                            why
                        }
                    };
                    notify::ready(&status);
                }
            }
        }
        watching.abort();
        notify::stopping();
        info!("stopping");
        watchdog.during(server.shutdown()).await;
        Ok(())
    }

    /// All or nothing: the old configuration stays if anything is wrong with the new one. Files are
    /// read on another thread; `reading` is what one such thread at a time holds.
    async fn reload(
        &self,
        server: &mut Server<Answerer>,
        answerer: &Answerer,
        behind: &mut Services,
        reading: &Arc<Semaphore>,
    ) -> Result<(), String> {
        let stays = |e: &dyn std::fmt::Display| format!("the old configuration stays: {e}");
        let Ok(turn) = Arc::clone(reading).try_acquire_owned() else {
            return Err(stays(&"the reload before still waits for its files"));
        };
        let (given, before, old) = (self.given(), behind.clone(), answerer.resolver());
        let read = spawn_blocking(move || {
            let _turn = turn;
            let settings = settings(&given).map_err(|e| e.to_string())?;
            old.vital.may_become(&settings.vital)?;
            let new = Services::of_daemon(&settings, Some(&before)).map_err(|(_, why)| why)?;
            Ok::<_, String>((settings, new))
        });
        let read = timeout(RELOAD_TIMEOUT, read).await.map_err(|_| {
            let seconds = RELOAD_TIMEOUT.as_secs();
            stays(&format!("its files could not be read within {seconds} s; reload again"))
        })?;
        let (settings, new) =
            read.map_err(|_| stays(&"a bug, see the log"))?.map_err(|e| stays(&e))?;
        server.reconcile(&listeners(&settings)).await.map_err(|e| stays(&e))?;
        let resolver = answerer.resolver().renewed(settings, new.replica.clone());
        answerer.exchange(resolver, new.master.clone());
        *behind = new;
        Ok(())
    }
}

fn settings(given: &Overrides) -> Result<Settings, ConfigError> {
    let settings = Settings::load(given)?;
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    if settings.router.domains.is_empty() {
        warn!("no `domains` are configured: every recipient is foreign to us");
    }
    Ok(settings)
}

/// Tells the service manager that the main loop runs, for as long as it does.
struct Watchdog(Option<Interval>);

impl Watchdog {
    fn new() -> Self {
        Self(notify::watchdog_interval().map(|every| {
            let mut interval = interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// The result of something that may take long.
    async fn during<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        loop {
            let due = async {
                match &mut self.0 {
                    Some(interval) => drop(interval.tick().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = &mut what => return result,
                () = due => notify::alive(),
            }
        }
    }
}

/// Where nothing is configured: the socket that systemd opened, else the usual one.
fn listeners(settings: &Settings) -> Vec<Listen> {
    if !settings.listeners.is_empty() {
        return settings.listeners.clone();
    }
    let passed = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let endpoint = match passed {
        true => Endpoint::Systemd(SOCKET_UNIT.into()),
        false => Endpoint::Unix(DEFAULT_SOCKET.into()),
    };
    vec![Listen::at(endpoint)]
}

fn announce(server: &Server<Answerer>, answerer: &Answerer) -> String {
    let endpoints: Vec<String> = server.endpoints().iter().map(ToString::to_string).collect();
    let resolver = answerer.resolver();
    let text = format!("answering at {} from {}", endpoints.join(", "), resolver.lists);
    info!("{text}");
    text
}

enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}
