//! What a server says, line by line.
//!
//! The text of a status line is quoted, a literal or simply the rest of the line: Cyrus leaves the
//! quotes away in several places (`imap/mupdate.c:cmd_starttls`, and before a login in 3.2).

use std::borrow::Cow;

use super::failure::Failure;
use super::wire::{Cursor, Input, MAX_ACL, MAX_LOCATION, MAX_NAME, Stop, WireError, unquote};
use crate::model::record::State;

/// One line, with its literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// `MAILBOX` or `RESERVE`: a name has a record.
    Record {
        /// The tag of the command that it answers.
        tag: &'a [u8],
        /// [`State::Active`] or [`State::Reserved`].
        state: State,
        /// The mailbox.
        name: Cow<'a, [u8]>,
        /// `server!partition`.
        location: Cow<'a, [u8]>,
        /// The ACL: `identifier TAB rights TAB`, repeated.
        acl: Cow<'a, [u8]>,
        /// One of the strings was longer than its limit, and stands here as an empty one.
        is_long: bool,
    },
    /// `DELETE`: a name has no record any more.
    Deleted {
        /// The tag of the command that it answers.
        tag: &'a [u8],
        /// The mailbox.
        name: Cow<'a, [u8]>,
    },
    /// `OK`, `NO`, `BAD` or `BYE`.
    Status {
        /// The tag of the command that it answers, or `*`.
        tag: &'a [u8],
        /// Which of the four.
        status: Status,
        /// The rest of the line.
        text: Cow<'a, [u8]>,
    },
    /// Any other line.
    Other(&'a [u8]),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Not done.
    No,
    /// Not understood.
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
    /// The next response, if it is there as a whole.
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
            // A reservation has no ACL; one that says so with an empty string will do.
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

/// Longest text of a server that is shown, in bytes.
const MAX_SHOWN: usize = 200;

/// Text of a server that may be shown: what is not plain ASCII is escaped, what is long is cut.
pub(super) fn shown(text: &[u8]) -> String {
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

/// What a line after the login means that is not known. Untagged it is news nobody asked for;
/// with a tag it may be a record in words of the future, and to miss that would be to call
/// somebody unknown.
pub(super) fn unknown(line: &[u8]) -> Result<(), Failure> {
    match line {
        b"" | [b'*' | b'+', b' ', ..] => Ok(()),
        line => {
            Err(Failure::protocol(format!("a line that says nothing known: `{}`", shown(line))))
        }
    }
}

/// What a status line means whose tag nothing waits for.
pub(super) fn unasked(text: &[u8]) -> Failure {
    Failure::protocol(format!("an answer to nothing that was asked: `{}`", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_cut_ends_in_dots() {
        let long = "no ".repeat(100);
        assert!(shown(long.as_bytes()).ends_with("no no..."), "{}", shown(long.as_bytes()));
        assert_eq!(shown(b"it's \"no\"\x07"), r#"it's "no"\x07"#);
    }
}
