//! The daemon of the demonstration, as `murder-route serve` runs it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::postfix::query;
use crate::config::{Overrides, Settings};
use crate::master::client::Master;
use crate::master::{MasterClient, Upstream};
use crate::replica::ReplicaSource;
use crate::resolver::Resolver;
use crate::server::answerer::Answerer;
use crate::server::{Limits, Server};
use crate::wire::socketmap::Reply;

/// Timeout for an expected answer. A daemon reconnects to a restarted master after some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon with a replica.
pub(super) struct DemoDaemon {
    server: Server<Answerer>,
    murder: Arc<MasterClient>,
}

impl DemoDaemon {
    pub(super) async fn start(config: &Path) -> io::Result<Self> {
        let given = Overrides { config: Some(config.to_owned()), ..Overrides::default() };
        let settings = Settings::load(&given).map_err(io::Error::other)?;
        let listen = settings.listeners.clone();
        let mupdate = settings.mupdate.as_ref().ok_or_else(|| io::Error::other("no master"))?;
        let upstream = Upstream::new(mupdate).map_err(io::Error::other)?;
        let murder =
            MasterClient::to_follow(upstream, &settings.replica).map_err(io::Error::other)?;
        let replica = murder.replica().map(|replica| ReplicaSource {
            list: Arc::new(replica.list().clone()),
            trust: replica.trust(),
        });
        let murder = Arc::new(murder);
        let master = Some(Arc::clone(&murder) as Arc<dyn Master>);
        let answerer = Arc::new(Answerer::new(Resolver::new(settings, replica), master));
        let mut server = Server::new(answerer, Limits::default())?;
        server.reconcile(&listen).await.map_err(io::Error::other)?;
        Ok(Self { server, murder })
    }

    /// Stops it, so that the next daemon can open the replica.
    pub(super) async fn stop(self) -> io::Result<()> {
        self.server.shutdown().await;
        let mut murder = self.murder;
        let end = Instant::now() + ANSWER_TIMEOUT;
        loop {
            // A connection may still hold it.
            match Arc::try_unwrap(murder) {
                Ok(murder) => {
                    murder.stop().await;
                    return Ok(());
                }
                Err(_) if Instant::now() > end => return Err(io::ErrorKind::TimedOut.into()),
                Err(shared) => murder = shared,
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Asks until the answer is as expected.
pub(super) async fn until(
    socket: &Path,
    recipient: &str,
    is: impl Fn(&Reply) -> bool,
) -> io::Result<Reply> {
    let end = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let reply = query(socket, "lmtp", recipient).await?;
        if is(&reply) {
            return Ok(reply);
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("{recipient} is still answered `{reply}`")));
        }
        sleep(Duration::from_millis(50)).await;
    }
}
