//! Lines: the questions of the socketmap in the words of tcp_table(5) and OpenSMTPD.

use std::io;

use super::{Conversation, Heard, Talk};
use crate::server::Answer;
use crate::wire::line::{Decoder, Form, Request, TABLE};
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::Reply;

pub(super) struct Talker {
    requests: Decoder,
    /// That of the last question, for a last answer.
    form: Form,
}

impl Default for Talker {
    fn default() -> Self {
        Talker { requests: Decoder::default(), form: Form::Map }
    }
}

impl Talk for Talker {
    const PROTOCOL: Protocol = Protocol::Line;

    fn hear<A: Answer>(
        &mut self,
        with: &Conversation<'_, A>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Heard> {
        self.requests.push(bytes);
        while let Some(request) = self.requests.next_request() {
            let request = match request {
                Ok(request) => request,
                Err(error) => return Ok(Heard::Garbage(error.to_string())),
            };
            self.form = request.form();
            match request {
                Request::Get(key) => {
                    let reply = with.of_map(TABLE.as_bytes(), &key, out)?;
                    Form::Table.encode_into(out, &reply);
                }
                Request::Never(refusal) => refusal.encode_into(out),
                Request::Long(form) => form.encode_into(out, &Reply::NotFound),
                Request::Map { map, key } => {
                    let reply = with.of_map(map, key, out)?;
                    Form::Map.encode_into(out, &reply);
                }
            }
            with.send_if_much(out)?;
        }
        Ok(Heard::More)
    }

    fn is_between(&self) -> bool {
        self.requests.is_empty()
    }

    fn refuse(&self, why: &str, out: &mut Vec<u8>) {
        self.form.encode_into(out, &Reply::Temp(why.to_owned()));
    }
}
