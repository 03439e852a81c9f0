//! Policy delegation: is this recipient to be taken?

use std::io;

use super::{Conversation, Heard, Talk};
use crate::server::Answer;
use crate::wire::policy::{Decoder, Request, encode_into};
use crate::wire::protocol::Protocol;
use crate::wire::rcpt::RcptVerdict;

#[derive(Default)]
pub(super) struct Talker(Decoder);

impl Talk for Talker {
    const PROTOCOL: Protocol = Protocol::Policy;

    fn hear<A: Answer>(
        &mut self,
        with: &Conversation<'_, A>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Heard> {
        self.0.push(bytes);
        while let Some(request) = self.0.next_request() {
            let answer = match request {
                Ok(Some(Request { at_rcpt: Some(recipient) })) => with.at_rcpt(recipient, out)?,
                Ok(Some(Request { at_rcpt: None })) => RcptVerdict::Pass,
                // It could not be read, and is asked for again later.
                Ok(None) => RcptVerdict::FAILED,
                Err(error) => return Ok(Heard::Garbage(error.to_string())),
            };
            encode_into(out, answer);
            with.send_if_much(out)?;
        }
        Ok(Heard::More)
    }

    fn is_between(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing: Postfix takes a close without an answer for a failure, which is temporary.
    fn refuse(&self, _why: &str, _out: &mut Vec<u8>) {}
}
