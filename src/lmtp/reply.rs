//! Replies of an LMTP server.

use std::fmt;

/// Maximum length of a line, in bytes without its end. RFC 5321 has 512 for a reply, RFC 4954 more for
/// a challenge; those of Cyrus are shorter.
pub const LINE_LIMIT: usize = 2048;

/// Maximum number of lines of a reply. LHLO has some ten.
const MAX_LINES: usize = 100;

/// A reply, its lines without their codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LmtpReply {
    /// The code.
    pub code: u16,
    /// The lines.
    pub lines: Vec<String>,
}

impl LmtpReply {
    /// Whether it is positive.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether it is a temporary refusal.
    pub fn is_temporary(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// The last line.
    pub fn text(&self) -> &str {
        self.lines.last().map_or("", String::as_str)
    }
}

/// Code and last line, in printable form.
impl fmt::Display for LmtpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&format!("{} {}", self.code, self.text())))
    }
}

/// A line that no server of LMTP or SMTP sends, in printable form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLmtp(pub String);

/// Assembles replies from lines.
#[derive(Debug, Default)]
pub struct ReplyReader {
    lines: Vec<String>,
}

impl ReplyReader {
    /// Processes a line, with or without its CR. Returns the reply that it completes.
    ///
    /// # Errors
    ///
    /// The line is not part of a reply, or the reply has too many lines.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<LmtpReply>, NotLmtp> {
        let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
        let code = text.get(..3).filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
        let Some(code) = code.and_then(|code| code.parse::<u16>().ok()) else {
            return Err(NotLmtp(printable(&text)));
        };
        self.lines.push(text.get(4..).unwrap_or_default().to_owned());
        match text.as_bytes().get(3) {
            Some(b'-') if self.lines.len() < MAX_LINES => Ok(None),
            None | Some(b' ') => {
                Ok(Some(LmtpReply { code, lines: std::mem::take(&mut self.lines) }))
            }
            _ => Err(NotLmtp(printable(&text))),
        }
    }
}

/// Whether a reply to LHLO offers this extension.
pub fn offers(lhlo: &LmtpReply, extension: &str) -> bool {
    let mut keywords = lhlo.lines.iter().skip(1).filter_map(|line| line.split_whitespace().next());
    keywords.any(|keyword| keyword.eq_ignore_ascii_case(extension))
}

/// The mechanisms of AUTH in a reply to LHLO, in upper case. Some servers write `AUTH=`.
pub fn auth_mechanisms(lhlo: &LmtpReply) -> Vec<String> {
    let mechanisms = lhlo.lines.iter().skip(1).filter_map(|line| {
        let (word, rest) = line.split_once([' ', '='])?;
        word.eq_ignore_ascii_case("AUTH").then_some(rest)
    });
    mechanisms.flat_map(str::split_whitespace).map(|word| printable(word).to_uppercase()).collect()
}

/// Text from outside in one line of limited length, without control characters.
pub(super) fn printable(text: &str) -> String {
    const MAX: usize = 200;
    let plain = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().take(MAX).map(plain).collect()
}
