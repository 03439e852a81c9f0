//! Milter: verdicts on recipients. Everything else passes.

use std::io;

use super::{Progress, Session, SessionProtocol};
use crate::server::Responder;
use crate::wire::milter::{Command, Decoder, encode_into};
use crate::wire::protocol::Protocol;
use crate::wire::rcpt::RcptVerdict;

#[derive(Default)]
pub(super) struct Milter {
    decoder: Decoder,
    /// The message did not come by SMTP.
    submitted: bool,
}

impl SessionProtocol for Milter {
    const PROTOCOL: Protocol = Protocol::Milter;

    fn feed<R: Responder>(
        &mut self,
        session: &Session<'_, R>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Progress> {
        self.decoder.push(bytes);
        while let Some(command) = self.decoder.next_command() {
            match command {
                Ok(Command::Negotiate(offer)) => {
                    self.submitted = false;
                    offer.encode_into(out);
                }
                Ok(Command::Connection { submitted }) => {
                    self.submitted = submitted;
                    encode_into(out, RcptVerdict::Pass);
                }
                Ok(Command::Recipient(_)) if self.submitted => encode_into(out, RcptVerdict::Pass),
                Ok(Command::Recipient(recipient)) => {
                    let answer = session.at_rcpt(recipient, out)?;
                    encode_into(out, answer);
                }
                Ok(Command::Other) => encode_into(out, RcptVerdict::Pass),
                Ok(Command::Silent) => {}
                Ok(Command::Quit) => return Ok(Progress::End),
                Err(error) => return Ok(Progress::Garbage(error.to_string())),
            }
            session.send_if_much(out)?;
        }
        Ok(Progress::Continue)
    }

    fn is_between(&self) -> bool {
        self.decoder.is_empty()
    }

    /// Nothing: the configuration of the MTA decides about messages whose filter failed.
    fn refuse(&self, _why: &str, _out: &mut Vec<u8>) {}
}
