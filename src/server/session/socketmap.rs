//! Socketmap: a map, a key, an answer.

use std::io;

use super::{Conversation, Heard, Talk};
use crate::server::Answer;
use crate::wire::netstring::{Decoder, Frame};
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::{REQUEST_LIMIT, Reply, Request, SKIPPED_REQUEST_LIMIT};

pub(super) struct Talker(Decoder);

impl Default for Talker {
    fn default() -> Self {
        Talker(Decoder::new(REQUEST_LIMIT))
    }
}

impl Talk for Talker {
    const PROTOCOL: Protocol = Protocol::Socketmap;

    fn hear<A: Answer>(
        &mut self,
        with: &Conversation<'_, A>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Heard> {
        self.0.push(bytes);
        while let Some(frame) = self.0.next_or_skipped(SKIPPED_REQUEST_LIMIT) {
            let reply = match frame {
                Ok(Frame::Whole(payload)) => {
                    let request = Request::parse(payload);
                    with.of_map(request.map, request.key, out)?
                }
                Ok(Frame::Skipped) => Reply::NotFound,
                Err(error) => return Ok(Heard::Garbage(error.to_string())),
            };
            reply.encode_into(out);
            with.send_if_much(out)?;
        }
        Ok(Heard::More)
    }

    fn is_between(&self) -> bool {
        self.0.is_empty()
    }

    fn refuse(&self, why: &str, out: &mut Vec<u8>) {
        Reply::Temp(why.to_owned()).encode_into(out);
    }
}

impl<A: Answer> Conversation<'_, A> {
    /// The reply of a map, whoever asks for it.
    pub(super) fn of_map(&self, map: &[u8], key: &[u8], out: &mut Vec<u8>) -> io::Result<Reply> {
        let Ok(map) = std::str::from_utf8(map) else {
            return Ok(Reply::Temp("the name of the map is not UTF-8".to_owned()));
        };
        let at_once = || self.answer.at_once(map, key);
        self.answered(out, at_once, || self.answer.in_time(map, key), Reply::Temp)
    }
}
