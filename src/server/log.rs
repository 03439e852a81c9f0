//! The log of the daemon: lines on standard error.
//!
//! Recipients are chosen by strangers, so every control character in a line is written as an escape:
//! nobody forges a line or drives the terminal of who reads it.

mod writer;

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format::Writer};
use tracing_subscriber::registry::LookupSpan;

use self::writer::Queue;

/// Lines on their way to standard error, once [`init`] was called.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How long a process that ends waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends the log of this process to standard error, from now on and once for all.
///
/// Under systemd (`JOURNAL_STREAM` is set) each line begins with its syslog priority as sd-daemon(3)
/// has it; on a terminal or in a file with the name of the level. A panic is logged too. Nothing that
/// logs waits for the log or fails with it: see [`lost`].
pub fn init(level: LevelFilter) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let queue = Arc::clone(QUEUE.get_or_init(Arc::default));
    let said = move |lost: u64| {
        let text = format!(
            "{lost} lines of the log are lost: they could not be written, or came faster than they \
             were"
        );
        line(journal, Level::WARN, &text)
    };
    // Without a copy of the descriptor or a thread there is no log, and a daemon that answers all the
    // same. What it lacks keeps it from starting soon enough.
    if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
        let _ = queue.write_to(File::from(stderr), said);
    }
    let lines = Arc::clone(&queue);
    // An error means that the process has a log already: a test, or an embedding program.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || Pushed(Arc::clone(&lines)))
        // They are written by `eprintln!`, which panics where standard error cannot be written.
        .log_internal_errors(false)
        .event_format(Line { journal })
        .try_init();
    std::panic::set_hook(Box::new(move |panic| {
        // Names the place and the text; the task that asked gets a temporary answer. Not by way of
        // the subscriber, where the panic may come from: a panic in the hook ends the process.
        let text = format!("this is a bug in murder-route: {panic}");
        queue.push(line(journal, Level::ERROR, &text));
    }));
}

/// Waits until what was logged is written, for a second at most. To be called before the process
/// ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Number of lines that were lost since the start: the log could not be written, or not fast enough.
pub fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// Where the subscriber writes: one call for each line.
struct Pushed(Arc<Queue>);

impl io::Write for Pushed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The level for so many `-v`: warnings and notices, then each decision, then everything.
pub fn level(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// One event, one line.
struct Line {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        writer.write_str(prefix(self.journal, level))?;
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "{}", Escaped(&text))
    }
}

/// What a line of this level begins with.
fn prefix(journal: bool, level: Level) -> &'static str {
    match (journal, level) {
        (true, Level::ERROR) => "<3>",
        (true, Level::WARN) => "<4>",
        (true, Level::INFO) => "<6>",
        (true, _) => "<7>",
        (false, Level::ERROR) => "error: ",
        (false, Level::WARN) => "warning: ",
        (false, Level::INFO) => "",
        (false, _) => "debug: ",
    }
}

/// A whole line.
fn line(journal: bool, level: Level, text: &str) -> Vec<u8> {
    format!("{}{}\n", prefix(journal, level), Escaped(text)).into_bytes()
}

/// A text with its control characters written as `\n`, `\x1b` and so on, also those that only
/// change the direction of writing (Unicode's bidirectional controls).
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(f, "{}", c.escape_unicode())?;
                }
                '\0'..='\x1f' | '\x7f' if !matches!(c, '\n' | '\r' | '\t') => {
                    write!(f, "\\x{:02x}", u32::from(c))?;
                }
                _ if c.is_control() => write!(f, "{}", c.escape_default())?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Lets the first few of a kind of message through and counts the others.
///
/// ```
/// # use murder_route::server::log::RateLimit;
/// static FULL: RateLimit = RateLimit::new();
/// if let Some(more) = FULL.admit(std::time::Instant::now()) {
///     tracing::warn!("the list cannot be read{more}");
/// }
/// ```
#[derive(Debug, Default)]
pub struct RateLimit(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    said: u32,
    held: u64,
}

impl RateLimit {
    const PER: Duration = Duration::from_secs(60);
    const AT_MOST: u32 = 5;

    /// Five messages a minute.
    pub const fn new() -> Self {
        RateLimit(Mutex::new(Window { began: None, said: 0, held: 0 }))
    }

    /// Whether a message may be written at `now`, and with it how many were held back since the
    /// last one.
    pub fn admit(&self, now: Instant) -> Option<More> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= Self::PER) {
            window.began = Some(now);
            window.said = 0;
        }
        if window.said >= Self::AT_MOST {
            window.held = window.held.saturating_add(1);
            return None;
        }
        window.said += 1;
        Some(More(std::mem::take(&mut window.held)))
    }
}

/// How many messages were held back; to be written after the message. Nothing if none was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct More(pub u64);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " (and {n} more of the kind since the last such message)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What the log would write.
    fn written(journal: bool, say: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level(1))
            .with_writer(move || writer.clone())
            .event_format(Line { journal })
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn recipient_cannot_forge_a_line_or_drive_a_terminal() {
        let recipient = "a\n<0>forged\r\x1b[2J\u{9b}31m\0\t\u{202e}ü";
        let text = written(true, || tracing::warn!(recipient, "unknown {recipient}"));
        let escaped = r"a\n<0>forged\r\x1b[2J\u{9b}31m\x00\t\u{202e}ü";
        assert!(text.starts_with(&format!("<4>unknown {escaped}")), "{text}");
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.trim_end().contains(char::is_control), "{text}");
    }

    #[test]
    fn journal_gets_priorities_and_terminal_gets_level_names() {
        let say = || {
            tracing::error!("e");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
            tracing::trace!("t");
        };
        assert_eq!(written(true, say), "<3>e\n<4>w\n<6>i\n<7>d\n");
        assert_eq!(written(false, say), "error: e\nwarning: w\ni\ndebug: d\n");
    }

    #[test]
    fn flood_of_warnings_is_counted_not_written() {
        let limit = RateLimit::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((0..417).filter_map(|_| limit.admit(at(1))).count(), 5);
        assert_eq!(limit.admit(at(60)), None);
        let more = limit.admit(at(61)).unwrap();
        assert_eq!(more.to_string(), " (and 413 more of the kind since the last such message)");
        assert_eq!(limit.admit(at(62)).unwrap().to_string(), "");
    }
}
