//! SASL in MUPDATE and LMTP (RFC 4422): choice of a mechanism, and its exchange.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::prelude::{Mechname, SASLClient, SASLConfig, SessionError, State};
use rsasl::property::{AuthId, AuthzId, Password};

use super::credentials::{Credentials, Mechanism};
use super::failure::Failure;

/// Accepted iteration counts of a SCRAM password hash. Cyrus uses 4096.
///
/// An honest server has at least 4096 (RFC 5802 section 5.1, RFC 7677 section 4). An impostor that
/// asks for one iteration gets a proof from which the password is found faster. A count above the
/// maximum would be an attack on the processor.
const ITERATIONS: RangeInclusive<u32> = 4096..=600_000;

/// Conditions for the choice of a mechanism.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// Whether the connection is under TLS with a verified certificate.
    pub(crate) tls: bool,
    /// Whether we presented a client certificate.
    pub(crate) client_certificate: bool,
    /// Whether PLAIN is allowed on an unencrypted connection.
    pub(crate) allow_plaintext: bool,
}

/// Returns the first mechanism of `wanted` that is offered and possible.
pub(crate) fn choose(
    wanted: &[Mechanism],
    offered: &[String],
    credentials: &Credentials,
    circumstances: Circumstances,
) -> Result<Mechanism, Failure> {
    let Circumstances { tls, client_certificate, allow_plaintext } = circumstances;
    let with_password = credentials.password().is_some() && !credentials.name().is_empty();
    if !with_password && !client_certificate {
        return Err(Failure::NoCredentials);
    }
    let possible = |mechanism: Mechanism| match mechanism {
        Mechanism::External => client_certificate,
        Mechanism::Plain => with_password && (tls || allow_plaintext),
        _ => with_password,
    };
    let is_offered =
        |mechanism: Mechanism| offered.iter().any(|offered| offered == mechanism.as_str());
    let ours: Vec<Mechanism> = wanted.iter().copied().filter(|own| possible(*own)).collect();
    if let Some(mechanism) = ours.iter().copied().find(|own| is_offered(*own)) {
        return Ok(mechanism);
    }
    let offered_list = match offered {
        [] => "none".to_owned(),
        offered => offered.join(" "),
    };
    let ours = match ours.as_slice() {
        [] => "none".to_owned(),
        ours => ours.iter().map(|own| own.as_str()).collect::<Vec<_>>().join(" "),
    };
    let hint = if wanted.contains(&Mechanism::Plain)
        && with_password
        && is_offered(Mechanism::Plain)
        && !tls
    {
        "; PLAIN would send the password unencrypted: use TLS, or set `allow-plaintext = true` \
         on a network without eavesdroppers"
    } else if offered.is_empty() && !tls {
        "; Cyrus offers PLAIN only under TLS or with `allowplaintext: yes`, and SCRAM only with the \
         SASL module and a password store for it"
    } else {
        ""
    };
    Err(Failure::NoMechanism(format!(
        "the server offers {offered_list}, possible here: {ours}{hint}"
    )))
}

/// One SASL exchange. Messages of both sides are in base64, as on the wire.
pub(crate) struct Exchange {
    session: rsasl::prelude::Session,
    mechanism: Mechanism,
    /// Number of server messages processed.
    taken: u8,
    finished: bool,
    /// Whether the server reported a failure (`e=`); its tagged NO follows.
    failed: bool,
}

impl Exchange {
    /// Starts the exchange. Returns it with its first message.
    pub(crate) fn start(
        mechanism: Mechanism,
        credentials: &Credentials,
    ) -> Result<(Self, String), Failure> {
        let impossible =
            |what: &dyn fmt::Display| Failure::NoMechanism(format!("{mechanism}: {what}"));
        let config = SASLConfig::builder()
            .with_default_mechanisms()
            .with_callback(Callback(Arc::new(credentials.clone())))
            .map_err(|error| impossible(&error))?;
        let name = Mechname::parse(mechanism.as_str().as_bytes())
            .map_err(|_| impossible(&"not a mechanism"))?;
        let session = SASLClient::new(config)
            .start_suggested_iter([name])
            .map_err(|error| impossible(&error))?;
        let mut exchange = Self { session, mechanism, taken: 0, finished: false, failed: false };
        let first = exchange.turn(None).map_err(|error| impossible(&error))?;
        Ok((exchange, first))
    }

    /// Returns the mechanism.
    pub(crate) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Returns the response to a challenge.
    pub(crate) fn challenge(&mut self, challenge: &[u8]) -> Result<String, Failure> {
        let nonsense = |what: &str| {
            Failure::protocol(format!("a challenge for {} that is {what}", self.mechanism))
        };
        if self.finished || self.failed {
            return Err(nonsense("not expected"));
        }
        let message = STANDARD.decode(challenge).map_err(|_| nonsense("no base64"))?;
        self.taken = self.taken.saturating_add(1);
        // The library reads the first two bytes of each attribute unchecked.
        match self.taken {
            1 => match iterations(&message) {
                Some(rounds) if ITERATIONS.contains(&rounds) => {}
                Some(rounds) => return Err(self.dubious(rounds)),
                None => return Err(nonsense("malformed")),
            },
            2 if !is_server_final(&message) => return Err(nonsense("malformed")),
            _ => {}
        }
        if message.starts_with(b"e=") {
            self.failed = true;
            return Ok(String::new());
        }
        self.turn(Some(&message)).map_err(|error| Failure::FalseServer(error.to_string()))
    }

    /// Returns the failure for an iteration count that is not accepted. No response is sent.
    fn dubious(&self, rounds: u32) -> Failure {
        let what = match rounds < *ITERATIONS.start() {
            true => "too few: a server that poses as the master could find out the password",
            false => "too many",
        };
        Failure::FalseServer(format!(
            "it asks for {rounds} rounds of {}, {what}; {} to {} are accepted \
             (`scram_iteration_counter` in the SASL configuration of the server)",
            self.mechanism,
            ITERATIONS.start(),
            ITERATIONS.end()
        ))
    }

    /// Checks, after the server reported success, that the exchange is complete: in SCRAM the server
    /// must prove that it knows the password.
    pub(crate) fn check_success(&self) -> Result<(), Failure> {
        // In SCRAM the library is finished only once it has verified the server's proof.
        if self.finished {
            Ok(())
        } else {
            Err(Failure::FalseServer("it left its part of the login out".into()))
        }
    }

    fn turn(&mut self, input: Option<&[u8]>) -> Result<String, SessionError> {
        let mut output = io::Cursor::new(Vec::new());
        let state = self.session.step(input, &mut output)?;
        self.finished = matches!(state, State::Finished(_));
        Ok(STANDARD.encode(output.into_inner()))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// Returns the iteration count in `r=…,s=…,i=…`.
fn iterations(message: &[u8]) -> Option<u32> {
    let mut attributes = message.split(|byte| *byte == b',');
    let mut next = |name: &[u8]| attributes.next().and_then(|text| text.strip_prefix(name));
    next(b"r=")?;
    next(b"s=")?;
    std::str::from_utf8(next(b"i=")?).ok()?.parse().ok()
}

/// Whether the message is `v=…` or `e=…`.
fn is_server_final(message: &[u8]) -> bool {
    message.starts_with(b"v=") || message.starts_with(b"e=")
}

struct Callback(Arc<Credentials>);

impl SessionCallback for Callback {
    fn callback(
        &self,
        _session: &SessionData,
        _context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        let credentials = &self.0;
        if !credentials.username.is_empty() && credentials.username != credentials.name() {
            request.satisfy::<AuthzId>(&credentials.username)?;
        }
        request.satisfy::<AuthId>(credentials.name())?;
        if let Some(password) = credentials.password() {
            request.satisfy::<Password>(password.reveal())?;
        }
        Ok(())
    }
}
