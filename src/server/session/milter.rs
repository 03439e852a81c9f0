//! Milter: is this recipient to be taken? Everything else is let pass.

use std::io;

use super::{Conversation, Heard, Talk};
use crate::server::Answer;
use crate::wire::milter::{Command, Decoder, encode_into};
use crate::wire::protocol::Protocol;
use crate::wire::rcpt::RcptVerdict;

#[derive(Default)]
pub(super) struct Talker {
    decoder: Decoder,
    /// The message did not come by SMTP.
    submitted: bool,
}

impl Talk for Talker {
    const PROTOCOL: Protocol = Protocol::Milter;

    fn hear<A: Answer>(
        &mut self,
        with: &Conversation<'_, A>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Heard> {
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
                    let answer = with.at_rcpt(recipient, out)?;
                    encode_into(out, answer);
                }
                Ok(Command::Other) => encode_into(out, RcptVerdict::Pass),
                Ok(Command::Silent) => {}
                Ok(Command::Quit) => return Ok(Heard::End),
                Err(error) => return Ok(Heard::Garbage(error.to_string())),
            }
            with.send_if_much(out)?;
        }
        Ok(Heard::More)
    }

    fn is_between(&self) -> bool {
        self.decoder.is_empty()
    }

    /// Nothing: what becomes of the letter without its filter is for the MTA's configuration to say.
    fn refuse(&self, _why: &str, _out: &mut Vec<u8>) {}
}
