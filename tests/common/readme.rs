//! Splits a README into the steps that a postmaster performs.
//!
//! A fenced block marked `sh` is run. Every other fenced block belongs to the file whose path is the last
//! `/absolute/path` in backticks of the paragraph just before it, which ends with a colon. It is the whole
//! file, or, if the paragraph contains the word "add", its next lines. Text to read only is indented by
//! four blanks, and is not a step. Any other block is an error, so that no step is silently left out.

use std::fmt;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The headings above it, the title first.
    pub headings: Vec<String>,
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The action.
    pub action: Action,
}

/// Action of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A script for `sh -e`.
    Run(String),
    /// The whole text of a file.
    Write { path: String, text: String },
    /// Text for the end of a file.
    Add { path: String, text: String },
}

/// A place where a README cannot be followed, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Unclear {
    pub line: usize,
    pub why: &'static str,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Unclear {}

const FENCE: &str = "```";

/// The steps of a text, in order.
pub fn steps(text: &str) -> Result<Vec<Step>, Unclear> {
    let mut steps = Vec::new();
    let mut headings: Vec<(usize, String)> = Vec::new();
    let mut paragraph = Paragraph::default();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let unclear = |why| Unclear { line: number, why };
        let trimmed = line.trim();
        let indent = line.len() - line.trim_start().len();
        if let Some(kind) = trimmed.strip_prefix(FENCE) {
            let mut block = String::new();
            loop {
                let (line, _) = lines.next().ok_or(unclear("the fence is never closed"))?;
                if line.trim() == FENCE {
                    break;
                }
                block += without_indent(line, indent);
                block.push('\n');
            }
            let action = match kind.trim() {
                "sh" => Action::Run(block),
                _ => paragraph.file(block).map_err(unclear)?,
            };
            let headings = headings.iter().map(|(_, heading)| heading.clone()).collect();
            steps.push(Step { headings, line: number, action });
            paragraph = Paragraph::default();
        } else if trimmed.starts_with("~~~") {
            return Err(unclear("a fence is made of backticks here"));
        } else if indent < 4 && trimmed.starts_with('#') {
            let heading = trimmed.trim_start_matches('#');
            let level = trimmed.len() - heading.len();
            headings.retain(|(upper, _)| *upper < level);
            headings.push((level, heading.trim().to_owned()));
            paragraph = Paragraph::default();
        } else {
            paragraph.read(trimmed);
        }
    }
    Ok(steps)
}

fn without_indent(line: &str, indent: usize) -> &str {
    let blanks = line.len() - line.trim_start_matches(' ').len();
    line.get(blanks.min(indent)..).unwrap_or(line)
}

/// The last paragraph that was read.
#[derive(Default)]
struct Paragraph {
    text: String,
    ended: bool,
}

impl Paragraph {
    fn read(&mut self, line: &str) {
        if line.is_empty() {
            self.ended = true;
            return;
        }
        if self.ended || begins_item(line) {
            *self = Self::default();
        }
        self.text += line;
        self.text.push('\n');
    }

    /// The action for a block after this paragraph.
    fn file(&self, text: String) -> Result<Action, &'static str> {
        if !self.text.trim_end().ends_with(':') {
            return Err("no paragraph that ends with a colon says which file this is");
        }
        // Text and code alternate.
        let parts: Vec<&str> = self.text.split('`').collect();
        if parts.len().is_multiple_of(2) {
            return Err("the paragraph before it has a single backtick");
        }
        let path = parts.iter().skip(1).step_by(2).rfind(|code| {
            code.starts_with('/') && !code.contains(char::is_whitespace) && !code.ends_with('/')
        });
        let path = path.ok_or("the paragraph before it names no file by its whole path")?;
        let path = (*path).to_owned();
        let mut words = parts.iter().step_by(2).flat_map(|text| {
            text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
        });
        Ok(match words.any(|word| word.eq_ignore_ascii_case("add")) {
            true => Action::Add { path, text },
            false => Action::Write { path, text },
        })
    }
}

/// Whether it begins with `1.`, `-` or `*`.
fn begins_item(line: &str) -> bool {
    let marker = line.split_whitespace().next().unwrap_or_default();
    let number = marker.strip_suffix('.').unwrap_or_default();
    matches!(marker, "-" | "*")
        || (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
