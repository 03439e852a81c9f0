//! Logs in at backends as Postfix and `murder-route lmtp` do, up to RCPT TO.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::conversation::{
    BACKEND_TIMEOUT, BackendTarget, MAX_CONCURRENT, STEP_TIMEOUT, connect, line, under_tls,
};
use crate::config::BackendAccess;
use crate::doctor::judge::lmtp::{Own, TlsOutcome, Tried};
use crate::doctor::judge::login::Attempt;
use crate::lmtp::{self, LmtpLogin, LmtpReply, LmtpStep, Ready, ReplyReader};
use crate::master::connection::ByteStream;
use crate::model::backend::LmtpAddress;
use crate::relay::{self as backend, LoginError};

/// The logins to try at a backend.
pub(super) struct LoginTrial {
    /// As Postfix.
    pub(super) attempt: Option<Attempt>,
    /// As `murder-route lmtp`.
    pub(super) access: Option<BackendAccess>,
}

/// Results of the logins.
#[derive(Default)]
pub(super) struct LoginOutcome {
    pub(super) tried: Option<Tried>,
    pub(super) own: Option<Own>,
    /// LmtpReply of the backend to RCPT TO.
    pub(super) rcpt: Option<LmtpReply>,
}

/// Tries all logins, several at a time. Returns the results in the order of the backends.
pub(super) async fn try_all(
    us: &str,
    wanted: &[BackendTarget],
    trials: Vec<LoginTrial>,
) -> Vec<LoginOutcome> {
    let turns = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut tasks = JoinSet::new();
    for (nth, (BackendTarget { place, recipient, .. }, trial)) in
        wanted.iter().zip(trials).enumerate()
    {
        let turns = Arc::clone(&turns);
        let (us, place, recipient) = (us.to_owned(), place.clone(), recipient.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire().await;
            (nth, try_one(&us, &place, recipient.as_deref(), trial).await)
        });
    }
    let mut all: Vec<LoginOutcome> = wanted.iter().map(|_| LoginOutcome::default()).collect();
    while let Some(done) = tasks.join_next().await {
        if let Ok((nth, outcome)) = done
            && let Some(place) = all.get_mut(nth)
        {
            *place = outcome;
        }
    }
    all
}

async fn try_one(
    us: &str,
    place: &LmtpAddress,
    recipient: Option<&str>,
    trial: LoginTrial,
) -> LoginOutcome {
    let mut outcome = LoginOutcome::default();
    if let Some(attempt) = trial.attempt {
        let name = attempt.policy.credentials.as_ref().map_or("", |c| c.name()).to_owned();
        let done = timeout(BACKEND_TIMEOUT, as_postfix(us, place, attempt)).await;
        outcome.tried = Some(match done.unwrap_or_else(|_| Err(slow())) {
            Ok((stream, ready)) => {
                outcome.rcpt = ask(stream, recipient).await;
                Tried::In(describe(&name, &ready))
            }
            Err(tried) => tried,
        });
    }
    if let Some(access) = trial.access {
        let done = timeout(BACKEND_TIMEOUT, as_configured(us, place, &access)).await;
        outcome.own = Some(match done {
            Ok(Ok((stream, ready))) => {
                if outcome.rcpt.is_none() {
                    outcome.rcpt = ask(stream, recipient).await;
                }
                Own::Ready(describe(&access.username, &ready))
            }
            Ok(Err(why)) => Own::Failed { temporary: why.is_temporary(), why: why.to_string() },
            Err(_) => Own::Failed { why: "it is too slow".into(), temporary: true },
        });
    }
    outcome
}

fn slow() -> Tried {
    Tried::Lost(format!("not done within {} s", BACKEND_TIMEOUT.as_secs()))
}

fn describe(name: &str, ready: &Ready) -> String {
    let tls = if ready.tls { "under TLS" } else { "without TLS" };
    match ready.mechanism {
        Some(mechanism) => format!("as `{name}` by {mechanism}, {tls}"),
        None => format!("without a login, {tls}"),
    }
}

async fn as_configured(
    us: &str,
    place: &LmtpAddress,
    access: &BackendAccess,
) -> Result<(Box<dyn ByteStream>, Ready), LoginError> {
    let connection = backend::connect(place).await.map_err(LoginError::Lost)?;
    let (connection, ready) = backend::log_in(connection, place, access, us).await?;
    Ok((connection.into_stream(), ready))
}

async fn as_postfix(
    us: &str,
    place: &LmtpAddress,
    attempt: Attempt,
) -> Result<(Box<dyn ByteStream>, Ready), Tried> {
    let lost = |why: String| Tried::Lost(why);
    let mut stream = connect(place).await.map_err(lost)?;
    let mut login = LmtpLogin::new(us, attempt.policy);
    let mut piece = vec![0; 4096];
    loop {
        let output = std::mem::take(login.output());
        stream.write_all(&output).await.map_err(|e| lost(e.to_string()))?;
        stream.flush().await.map_err(|e| lost(e.to_string()))?;
        match login.step() {
            LmtpStep::Wait => {
                let read = timeout(STEP_TIMEOUT, stream.read(&mut piece)).await;
                let silent = |_| lost(format!("no answer at {}", login.waits_for()));
                match read.map_err(silent)?.map_err(|e| lost(e.to_string()))? {
                    0 => login.closed(),
                    read => {
                        // Not on the runtime's thread: the backend sets the number of hash iterations.
                        let said = piece.get(..read).unwrap_or_default().to_vec();
                        let heard = spawn_blocking(move || {
                            login.receive(&said);
                            login
                        });
                        login = heard.await.map_err(|e| lost(e.to_string()))?;
                    }
                }
            }
            LmtpStep::StartTls => {
                let begun = timeout(STEP_TIMEOUT, under_tls(stream)).await;
                let begun = begun.map_err(|_| lost("no answer to the handshake".into()))?;
                let (encrypted, chain) = begun.map_err(|outcome| match outcome {
                    TlsOutcome::Failed(why) | TlsOutcome::Untestable(why) => lost(why),
                    TlsOutcome::Up(_) => lost("no TLS".into()),
                })?;
                if chain.first() != attempt.certificate.as_ref() {
                    return Err(lost("its certificate changed since the first connection".into()));
                }
                stream = encrypted;
                login.tls_is_up();
            }
            LmtpStep::Ready(ready) => return Ok((stream, ready)),
            LmtpStep::Failed(failure @ lmtp::LmtpFailure::Closed(_)) => {
                return Err(lost(failure.to_string()));
            }
            LmtpStep::Failed(failure) => return Err(Tried::Refused(failure)),
        }
    }
}

/// Sends RCPT TO for the recipient, then QUIT. No message is sent.
async fn ask(mut stream: Box<dyn ByteStream>, recipient: Option<&str>) -> Option<LmtpReply> {
    let fits = |text: &&str| text.bytes().all(|b| b >= b' ' && b != 0x7f) && text.len() < 500;
    let mut said = None;
    if let Some(recipient) = recipient.filter(fits) {
        let taken = command(&mut stream, "MAIL FROM:<>").await?;
        if taken.is_ok() {
            said = command(&mut stream, &format!("RCPT TO:<{recipient}>")).await;
        }
    }
    // The replies do not matter.
    let _ = command(&mut stream, "RSET").await;
    let _ = command(&mut stream, "QUIT").await;
    said
}

/// The reply to a command. `None`: no reply in time.
async fn command(stream: &mut Box<dyn ByteStream>, command: &str) -> Option<LmtpReply> {
    let exchange = async {
        stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        let (mut reader, mut came) = (ReplyReader::default(), Vec::new());
        loop {
            let line = line(stream, &mut came).await.ok()?;
            if let Some(reply) = reader.line(&line).ok()? {
                return Some(reply);
            }
        }
    };
    timeout(STEP_TIMEOUT, exchange).await.ok().flatten()
}
