//! Responses of a server, line by line.
//!
//! The text of a status line is quoted, a literal or the rest of the line: Cyrus omits the quotes in
//! several places (`imap/mupdate.c:cmd_starttls`, and before a login in 3.2).

use std::borrow::Cow;

use super::failure::Failure;
use super::wire::{Cursor, Input, MAX_ACL, MAX_LOCATION, MAX_NAME, Stop, WireError, unquote};
use crate::model::record::State;

/// One response line, with its literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// `MAILBOX` or `RESERVE`: a name has a record.
    Record {
        /// Tag of the command answered.
        tag: &'a [u8],
        /// [`State::Active`] or [`State::Reserved`].
        state: State,
        /// Mailbox name.
        name: Cow<'a, [u8]>,
        /// `server!partition`.
        location: Cow<'a, [u8]>,
        /// ACL: `identifier TAB rights TAB`, repeated.
        acl: Cow<'a, [u8]>,
        /// Whether one of the strings exceeded its limit and was replaced by an empty one.
        is_long: bool,
    },
    /// `DELETE`: a name no longer has a record.
    Deleted {
        /// Tag of the command answered.
        tag: &'a [u8],
        /// Mailbox name.
        name: Cow<'a, [u8]>,
    },
    /// `OK`, `NO`, `BAD` or `BYE`.
    Status {
        /// Tag of the command answered, or `*`.
        tag: &'a [u8],
        /// The status word.
        status: Status,
        /// The rest of the line.
        text: Cow<'a, [u8]>,
    },
    /// Any other line.
    Other(&'a [u8]),
}

/// Result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok,
    /// Failure.
    No,
    /// The command was not understood.
    Bad,
    /// The server closes the connection.
    Bye,
}

enum Word {
    Record(State),
    Delete,
    Status(Status),
}

fn word(word: &[u8]) -> Option<Word> {
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    match word.len() {
        7 if is("MAILBOX") => Some(Word::Record(State::Active)),
        7 if is("RESERVE") => Some(Word::Record(State::Reserved)),
        6 if is("DELETE") => Some(Word::Delete),
        2 if is("OK") => Some(Word::Status(Status::Ok)),
        2 if is("NO") => Some(Word::Status(Status::No)),
        3 if is("BAD") => Some(Word::Status(Status::Bad)),
        3 if is("BYE") => Some(Word::Status(Status::Bye)),
        _ => None,
    }
}

impl Response<'_> {
    /// Returns the next response, once it is complete.
    pub fn read(input: &mut Input) -> Result<Option<Response<'_>>, WireError> {
        input.next(read)
    }
}

fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Response<'a>, Stop> {
    let line = cursor.line()?;
    let space = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (tag, rest) = line.split_at(space);
    let rest = rest.get(1..).unwrap_or_default();
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let Some(word) = word(&rest[..end]) else {
        cursor.skip_line()?;
        return Ok(Response::Other(line));
    };
    cursor.skip(tag.len() + 1 + end);
    match word {
        Word::Record(state) => {
            let name = cursor.long_string(MAX_NAME)?;
            let location = cursor.long_string(MAX_LOCATION)?;
            // A reservation has no ACL; an empty string is accepted as well.
            let acl = match state {
                State::Reserved if cursor.line()?.trim_ascii().is_empty() => Cow::default(),
                _ => cursor.long_string(MAX_ACL)?,
            };
            cursor.end()?;
            Ok(Response::Record { tag, state, name, location, acl, is_long: cursor.is_long() })
        }
        Word::Delete => {
            let name = cursor.long_string(MAX_NAME)?;
            cursor.end()?;
            Ok(Response::Deleted { tag, name })
        }
        Word::Status(status) => {
            let text = rest.get(end + 1..).unwrap_or_default();
            let literal = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}"));
            let counts = |digit: &u8| digit.is_ascii_digit() || *digit == b'+';
            let text = match unquote(text) {
                _ if literal.is_some_and(|n| !n.is_empty() && n.iter().all(counts)) => {
                    let text = cursor.string(MAX_NAME)?;
                    cursor.end()?;
                    return Ok(Response::Status { tag, status, text });
                }
                Some((string, used)) if used == text.len() => string,
                _ => Cow::Borrowed(text),
            };
            cursor.skip_line()?;
            Ok(Response::Status { tag, status, text })
        }
    }
}

/// Maximum length of server text in messages, in bytes.
const MAX_SHOWN: usize = 200;

/// Returns server text for messages: bytes outside printable ASCII are escaped, long text is
/// truncated.
pub(super) fn printable(text: &[u8]) -> String {
    let mut shown = String::new();
    for byte in text.iter().take(MAX_SHOWN) {
        match byte {
            b' '..=b'~' => shown.push(char::from(*byte)),
            byte => shown.extend(byte.escape_ascii().map(char::from)),
        }
    }
    if text.len() > MAX_SHOWN {
        shown.push_str("...");
    }
    shown
}

/// Handles an unknown line after the login. An untagged line is an unsolicited notice and is
/// skipped. A tagged line may be a record in a future syntax; skipping it would make the recipient
/// unknown, so it is a failure.
pub(super) fn unknown(line: &[u8]) -> Result<(), Failure> {
    match line {
        b"" | [b'*' | b'+', b' ', ..] => Ok(()),
        line => {
            Err(Failure::protocol(format!("a line that says nothing known: `{}`", printable(line))))
        }
    }
}

/// Returns the failure for a status line whose tag matches no open command.
pub(super) fn unasked(text: &[u8]) -> Failure {
    Failure::protocol(format!("an answer to nothing that was asked: `{}`", printable(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_text_ends_in_dots() {
        let long = "no ".repeat(100);
        assert!(printable(long.as_bytes()).ends_with("no no..."), "{}", printable(long.as_bytes()));
        assert_eq!(printable(b"it's \"no\"\x07"), r#"it's "no"\x07"#);
    }
}
