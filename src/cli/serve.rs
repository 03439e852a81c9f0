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
use crate::server::source_watch::{self, HealthyText};
use crate::server::{Limits, Server, descriptors, list_watch, log, notify};
use crate::wire::endpoint::{Endpoint, Listen};

/// Name of the socket unit's socket, as systemd passes it.
const SOCKET_UNIT: &str = "murder-route.socket";

/// Timeout for a reload to read its files. After it the old configuration stays in force, and the daemon is
/// ready for the next signal, even if a disk or a file server hangs.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Run the daemon, which answers mail servers.
///
/// SIGTERM and SIGINT finish the requests in progress and stop. SIGHUP reloads the configuration, and
/// keeps the old one if the new one has an error.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 after SIGTERM or SIGINT, 64 usage, 71 a socket or the \
                        replica cannot be opened, 78 configuration.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Endpoint to listen at: unix:PATH or inet:HOST:PORT; may be given again [default:
    /// unix:/run/murder-route]
    #[arg(long, value_name = "ENDPOINT")]
    listen: Vec<Endpoint>,
    /// Log every decision; given twice: log everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        log::init(log::level(self.verbose));
        // Connections have threads of their own; the runtime accepts, times and receives signals.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| {
                error!("cannot start: {e}");
                Exit::System
            })?;
        let _entered = runtime.enter();
        // By default SIGXFSZ ends a process that writes a file beyond its limit (`ulimit -f`), whether log
        // or replica. If it is caught, the write fails instead. On an error here the default stays.
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
        // Before the sockets exist, so that no signal arrives before its handler.
        let mut signals = Signals::new().map_err(|e| {
            error!("cannot catch signals: {e}");
            Exit::System
        })?;
        let listen = listeners(&settings);
        let descriptors = descriptors::raise().inspect_err(|e| {
            warn!("cannot raise the limit of open files: {e}; fewer connections may be served")
        });
        let limits = Limits {
            connections: settings.max_connections,
            descriptors: descriptors.ok(),
            ..Limits::default()
        };
        let mut services = Services::of_daemon(&settings, None).map_err(|(exit, why)| {
            error!("{why}");
            exit
        })?;
        let resolver = Resolver::new(settings, services.replica.clone());
        let answerer = Arc::new(Answerer::new(resolver, services.master.clone()));
        let mut server = Server::new(Arc::clone(&answerer), limits).map_err(|e| {
            error!("{e}");
            Exit::System
        })?;
        answerer.count_connections(server.connections());
        server.reconcile(&listen).await.map_err(|e| {
            error!("{e}");
            Exit::System
        })?;
        let healthy = Arc::new(HealthyText::default());
        let text = announce(&server, &answerer);
        healthy.set(&text);
        notify::ready(&text);
        let watched = source_watch::watch(Arc::clone(&answerer), Arc::clone(&healthy));
        let watching = tokio::spawn(watched);
        let mut watchdog = Watchdog::new();
        let reload_slot = Arc::new(Semaphore::new(1));
        tokio::spawn(list_watch::run(Arc::clone(&answerer)));
        loop {
            match watchdog.during(signals.next()).await {
                DaemonSignal::Stop => break,
                DaemonSignal::Reload => {
                    notify::reloading();
                    let reload = self.reload(&mut server, &answerer, &mut services, &reload_slot);
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
                            healthy.set(&text);
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

    /// Reloads the configuration, or keeps the old one after any error. Files are read on another thread, one
    /// at a time, which holds `reload_slot`.
    async fn reload(
        &self,
        server: &mut Server<Answerer>,
        answerer: &Answerer,
        services: &mut Services,
        reload_slot: &Arc<Semaphore>,
    ) -> Result<(), String> {
        let not_reloaded = |e: &dyn std::fmt::Display| {
            format!("configuration not reloaded: {e}; keeping the old one")
        };
        let Ok(turn) = Arc::clone(reload_slot).try_acquire_owned() else {
            return Err(not_reloaded(&"the previous reload still waits for its files"));
        };
        let (given, before, old) = (self.given(), services.clone(), answerer.resolver());
        let read = spawn_blocking(move || {
            let _turn = turn;
            let settings = settings(&given).map_err(|e| e.to_string())?;
            old.vital.may_become(&settings.vital)?;
            let new = Services::of_daemon(&settings, Some(&before)).map_err(|(_, why)| why)?;
            Ok::<_, String>((settings, new))
        });
        let read = timeout(RELOAD_TIMEOUT, read).await.map_err(|_| {
            let seconds = RELOAD_TIMEOUT.as_secs();
            not_reloaded(&format!("its files could not be read within {seconds} s; reload again"))
        })?;
        let (settings, new) = read
            .map_err(|_| not_reloaded(&"a bug in murder-route, see the log"))?
            .map_err(|e| not_reloaded(&e))?;
        server.reconcile(&listeners(&settings)).await.map_err(|e| not_reloaded(&e))?;
        let resolver = answerer.resolver().renewed(settings, new.replica.clone());
        answerer.exchange(resolver, new.master.clone());
        *services = new;
        Ok(())
    }
}

fn settings(given: &Overrides) -> Result<Settings, ConfigError> {
    let settings = Settings::load(given)?;
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    if settings.router.domains.is_empty() {
        warn!(
            "no `domains` configured; all recipients are foreign and none is routed; set `domains`"
        );
    }
    Ok(settings)
}

/// Sends keep-alive messages to the service manager while the main loop runs.
struct Watchdog(Option<Interval>);

impl Watchdog {
    fn new() -> Self {
        Self(notify::watchdog_interval().map(|every| {
            let mut interval = interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Runs a future that may take long, and sends keep-alive messages meanwhile.
    async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let due = async {
                match &mut self.0 {
                    Some(interval) => drop(interval.tick().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = &mut future => return result,
                () = due => notify::alive(),
            }
        }
    }
}

/// The configured listeners; by default the socket passed by systemd, else the usual one.
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

/// Logs the endpoints and sources, and returns the text for systemd.
fn announce(server: &Server<Answerer>, answerer: &Answerer) -> String {
    let endpoints: Vec<String> = server.endpoints().iter().map(ToString::to_string).collect();
    let resolver = answerer.resolver();
    let text = format!("answering at {} from {}", endpoints.join(", "), resolver.lists);
    info!("{text}");
    text
}

/// A signal that the daemon acts on.
enum DaemonSignal {
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

    async fn next(&mut self) -> DaemonSignal {
        tokio::select! {
            _ = self.terminate.recv() => DaemonSignal::Stop,
            _ = self.interrupt.recv() => DaemonSignal::Stop,
            _ = self.hang_up.recv() => DaemonSignal::Reload,
        }
    }
}
