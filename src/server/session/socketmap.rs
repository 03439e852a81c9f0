//! Socketmap: requests of a map and a key.

use std::io;

use super::{Progress, Session, SessionProtocol};
use crate::server::Responder;
use crate::wire::netstring::{Decoder, Frame};
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::{REQUEST_LIMIT, Reply, Request, SKIPPED_REQUEST_LIMIT};

pub(super) struct Socketmap(Decoder);

impl Default for Socketmap {
    fn default() -> Self {
        Socketmap(Decoder::new(REQUEST_LIMIT))
    }
}

impl SessionProtocol for Socketmap {
    const PROTOCOL: Protocol = Protocol::Socketmap;

    fn feed<R: Responder>(
        &mut self,
        session: &Session<'_, R>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Progress> {
        self.0.push(bytes);
        while let Some(frame) = self.0.next_or_skipped(SKIPPED_REQUEST_LIMIT) {
            let reply = match frame {
                Ok(Frame::Whole(payload)) => {
                    let request = Request::parse(payload);
                    session.look_up(request.map, request.key, out)?
                }
                Ok(Frame::Skipped) => Reply::NotFound,
                Err(error) => return Ok(Progress::Garbage(error.to_string())),
            };
            reply.encode_into(out);
            session.send_if_much(out)?;
        }
        Ok(Progress::Continue)
    }

    fn is_between(&self) -> bool {
        self.0.is_empty()
    }

    fn refuse(&self, why: &str, out: &mut Vec<u8>) {
        Reply::Temp(why.to_owned()).encode_into(out);
    }
}

impl<R: Responder> Session<'_, R> {
    /// The reply of a map, in any protocol.
    pub(super) fn look_up(&self, map: &[u8], key: &[u8], out: &mut Vec<u8>) -> io::Result<Reply> {
        let Ok(map) = std::str::from_utf8(map) else {
            return Ok(Reply::Temp("the name of the map is not UTF-8".to_owned()));
        };
        let at_once = || self.responder.at_once(map, key);
        self.respond(out, at_once, || self.responder.in_time(map, key), Reply::Temp)
    }
}
