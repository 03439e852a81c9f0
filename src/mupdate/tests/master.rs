//! A master built on the server side of the SASL library, as far as a login needs it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::mechanisms::scram::properties::ScramStoredPassword;
use rsasl::mechanisms::scram::tools::{derive_keys, hash_password};
use rsasl::prelude::{Mechname, SASLConfig, SASLServer, Session, SessionError, State, Validation};
use rsasl::property::AuthId;
use sha1::Sha1;
use sha2::digest::{Digest, Output};
use sha2::{Sha256, Sha512};

const SALT: &[u8] = b"a salt";
const ROUNDS: u32 = 4096;

/// The master: bytes in, bytes out.
pub(crate) struct Master {
    pub(super) mechanisms: &'static str,
    pub(super) starttls: bool,
    pub(super) tls: bool,
    user: &'static str,
    pub(super) password: &'static [u8],
    input: Vec<u8>,
    exchange: Option<Session<Nothing>>,
    finished: bool,
    failed: bool,
}

struct Nothing;

impl Validation for Nothing {
    type Value = ();
}

struct Account {
    user: &'static str,
    password: &'static [u8],
}

impl Account {
    fn stored<D>(&self) -> (Vec<u8>, Vec<u8>)
    where
        D: Digest
            + sha2::digest::core_api::BlockSizeUser
            + sha2::digest::FixedOutput
            + sha2::digest::FixedOutputReset
            + Clone
            + Sync,
    {
        let mut salted = Default::default();
        hash_password::<D>(self.password, ROUNDS, SALT, &mut salted);
        let (client, server) = derive_keys::<D>(salted.as_slice());
        let stored: Output<D> = D::digest(&client);
        (stored.to_vec(), server.to_vec())
    }
}

impl SessionCallback for Account {
    fn callback(
        &self,
        session: &SessionData,
        context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        if context.get_ref::<AuthId>() == Some(self.user) {
            let (stored, server) = match session.mechanism().mechanism.as_str() {
                "SCRAM-SHA-512" => self.stored::<Sha512>(),
                "SCRAM-SHA-256" => self.stored::<Sha256>(),
                _ => self.stored::<Sha1>(),
            };
            request.satisfy::<ScramStoredPassword<'_>>(&ScramStoredPassword::new(
                ROUNDS, SALT, &stored, &server,
            ))?;
        }
        Ok(())
    }
}

impl Master {
    pub(crate) fn new(mechanisms: &'static str, user: &'static str, pass: &'static str) -> Self {
        Self {
            mechanisms,
            starttls: false,
            tls: false,
            user,
            password: pass.as_bytes(),
            input: Vec::new(),
            exchange: None,
            finished: false,
            failed: false,
        }
    }

    pub(super) fn banner(&self) -> String {
        format!(
            "* AUTH {}\r\n{}* COMPRESS \"DEFLATE\"\r\n* PARTIAL-UPDATE\r\n\
             * OK MUPDATE \"mu.example.org\" \"Cyrus IMAP\" \"3.6.1\" \"(master)\"\r\n",
            self.mechanisms,
            if self.starttls && !self.tls { "* STARTTLS\r\n" } else { "" },
        )
    }

    /// Returns the answer to these bytes.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> String {
        self.input.extend_from_slice(bytes);
        let mut said = String::new();
        while let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = self.input.drain(..end + 2).collect();
            said += &self.line(std::str::from_utf8(&line[..end]).unwrap());
        }
        said
    }

    fn line(&mut self, line: &str) -> String {
        if self.exchange.is_some() {
            return self.step(line);
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [tag, "STARTTLS"] => format!("{tag} OK Begin TLS negotiation now\r\n"),
            [_, "AUTHENTICATE", mechanism, initial] => {
                let config = SASLConfig::builder()
                    .with_default_mechanisms()
                    .with_callback(Account { user: self.user, password: self.password });
                let name = mechanism.trim_matches('"').as_bytes().to_vec();
                let server = SASLServer::<Nothing>::new(config.unwrap());
                let exchange = server.start_suggested(Mechname::parse(&name).unwrap()).unwrap();
                self.exchange = Some(exchange);
                self.finished = false;
                self.step(initial.trim_matches('"'))
            }
            _ => panic!("{line}"),
        }
    }

    fn step(&mut self, line: &str) -> String {
        if self.finished {
            // The empty line after the last challenge of SCRAM, also after one with `e=`.
            assert_eq!(line, "");
            self.exchange = None;
            return match self.failed {
                true => "A1 NO \"undefined error!\"\r\n".into(),
                false => "A1 OK \"Authenticated\"\r\n".into(),
            };
        }
        let mut output = std::io::Cursor::new(Vec::new());
        let message = STANDARD.decode(line).unwrap();
        match self.exchange.as_mut().unwrap().step(Some(&message), &mut output) {
            Ok(state) => {
                self.finished = matches!(state, State::Finished(_));
                self.failed = output.get_ref().starts_with(b"e=");
                STANDARD.encode(output.into_inner()) + "\r\n"
            }
            Err(_) => {
                self.exchange = None;
                "A1 NO \"undefined error!\"\r\n".into()
            }
        }
    }
}
