//! Policy delegation: verdicts on recipients.

use std::io;

use super::{Progress, Session, SessionProtocol};
use crate::server::Responder;
use crate::wire::policy::{Decoder, Request, encode_into};
use crate::wire::protocol::Protocol;
use crate::wire::rcpt::RcptVerdict;

#[derive(Default)]
pub(super) struct Policy(Decoder);

impl SessionProtocol for Policy {
    const PROTOCOL: Protocol = Protocol::Policy;

    fn feed<R: Responder>(
        &mut self,
        session: &Session<'_, R>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Progress> {
        self.0.push(bytes);
        while let Some(request) = self.0.next_request() {
            let answer = match request {
                Ok(Some(Request { at_rcpt: Some(recipient) })) => {
                    session.at_rcpt(recipient, out)?
                }
                Ok(Some(Request { at_rcpt: None })) => RcptVerdict::Pass,
                // Unreadable; the client retries later.
                Ok(None) => RcptVerdict::FAILED,
                Err(error) => return Ok(Progress::Garbage(error.to_string())),
            };
            encode_into(out, answer);
            session.send_if_much(out)?;
        }
        Ok(Progress::Continue)
    }

    fn is_between(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing: Postfix takes a close without an answer for a temporary failure.
    fn refuse(&self, _why: &str, _out: &mut Vec<u8>) {}
}
