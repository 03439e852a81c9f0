//! The line protocols: tcp_table(5), and the socketmap requests of OpenSMTPD, as lines.

use std::io;

use super::{Progress, Session, SessionProtocol};
use crate::server::Responder;
use crate::wire::line::{Decoder, Form, Request, TABLE};
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::Reply;

pub(super) struct Line {
    requests: Decoder,
    /// Form of the last request, for a last answer.
    form: Form,
}

impl Default for Line {
    fn default() -> Self {
        Line { requests: Decoder::default(), form: Form::Map }
    }
}

impl SessionProtocol for Line {
    const PROTOCOL: Protocol = Protocol::Line;

    fn feed<R: Responder>(
        &mut self,
        session: &Session<'_, R>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Progress> {
        self.requests.push(bytes);
        while let Some(request) = self.requests.next_request() {
            let request = match request {
                Ok(request) => request,
                Err(error) => return Ok(Progress::Garbage(error.to_string())),
            };
            self.form = request.form();
            match request {
                Request::Get(key) => {
                    let reply = session.look_up(TABLE.as_bytes(), &key, out)?;
                    Form::Table.encode_into(out, &reply);
                }
                Request::Never(refusal) => refusal.encode_into(out),
                Request::Long(form) => form.encode_into(out, &Reply::NotFound),
                Request::Map { map, key } => {
                    let reply = session.look_up(map, key, out)?;
                    Form::Map.encode_into(out, &reply);
                }
            }
            session.send_if_much(out)?;
        }
        Ok(Progress::Continue)
    }

    fn is_between(&self) -> bool {
        self.requests.is_empty()
    }

    fn refuse(&self, why: &str, out: &mut Vec<u8>) {
        self.form.encode_into(out, &Reply::Temp(why.to_owned()));
    }
}
