//! The log of the daemon: lines on standard error.
//!
//! Anyone can choose recipient addresses. Every control character in a line is escaped, so that an address
//! cannot forge a line or control the reader's terminal.

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

/// Time that an exiting process waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends the log of this process to standard error.
///
/// Under systemd (`JOURNAL_STREAM` is set) each line begins with its syslog priority as in sd-daemon(3);
/// on a terminal or in a file with the name of the level. Panics are logged too. No caller waits for the
/// log or fails with it: see [`lost`].
pub fn init(level: LevelFilter) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let queue = Arc::clone(QUEUE.get_or_init(Arc::default));
    let lost_line = move |lost: u64| {
        let text = format!("{lost} log lines lost: they could not be written, or not fast enough");
        line(journal, Level::WARN, &text)
    };
    // Without a copy of the descriptor or a thread there is no log, but the daemon answers. Such a
    // shortage soon prevents a start anyway.
    if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
        let _ = queue.write_to(File::from(stderr), lost_line);
    }
    let lines = Arc::clone(&queue);
    // An error means that the process already has a log: a test, or an embedding program.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || QueueWriter(Arc::clone(&lines)))
        // They use `eprintln!`, which panics if standard error cannot be written.
        .log_internal_errors(false)
        .event_format(LineFormat { journal })
        .try_init();
    std::panic::set_hook(Box::new(move |panic| {
        // Names the source line and the text; the request gets a temporary answer. Not through the
        // subscriber, which may have panicked itself: a panic in the hook ends the process.
        let text =
            format!("bug in murder-route: {panic}; the request is deferred; please report it");
        queue.push(line(journal, Level::ERROR, &text));
    }));
}

/// Waits until all lines are written, for a second at most. Call it before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Number of lines that were lost since the start: the log could not be written, or not fast enough.
pub fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// Writer of the subscriber: one call for each line.
struct QueueWriter(Arc<Queue>);

impl io::Write for QueueWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log level by the number of `-v`: 0 warnings and notices, 1 each decision, 2 everything.
pub fn level(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// Formats each event as one line.
struct LineFormat {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
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

/// Prefix of lines of this level.
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

/// A complete line.
fn line(journal: bool, level: Level, text: &str) -> Vec<u8> {
    format!("{}{}\n", prefix(journal, level), Escaped(text)).into_bytes()
}

/// A text with its control characters escaped as `\n`, `\x1b` and so on, including Unicode's
/// bidirectional controls.
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

/// Passes the first few messages of a kind and counts the others.
///
/// ```
/// # use murder_route::server::log::RateLimit;
/// static FULL: RateLimit = RateLimit::new();
/// if let Some(more) = FULL.admit(std::time::Instant::now()) {
///     tracing::warn!("the list cannot be read{more}");
/// }
/// ```
#[derive(Debug, Default)]
pub struct RateLimit(Mutex<RateWindow>);

#[derive(Debug, Default)]
struct RateWindow {
    began: Option<Instant>,
    passed: u32,
    held: u64,
}

impl RateLimit {
    const WINDOW: Duration = Duration::from_secs(60);
    const MAX_MESSAGES: u32 = 5;

    /// Five messages a minute.
    pub const fn new() -> Self {
        RateLimit(Mutex::new(RateWindow { began: None, passed: 0, held: 0 }))
    }

    /// Whether a message may be written at `now`, with the number of messages held back since the last
    /// one.
    pub fn admit(&self, now: Instant) -> Option<More> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= Self::WINDOW) {
            window.began = Some(now);
            window.passed = 0;
        }
        if window.passed >= Self::MAX_MESSAGES {
            window.held = window.held.saturating_add(1);
            return None;
        }
        window.passed += 1;
        Some(More(std::mem::take(&mut window.held)))
    }
}

/// Number of messages held back, to be printed after the message. Prints nothing for zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct More(pub u64);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} similar messages suppressed)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log lines written by `log`.
    fn written(journal: bool, log: impl FnOnce()) -> String {
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
            .event_format(LineFormat { journal })
            .finish();
        tracing::subscriber::with_default(subscriber, log);
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
        let log = || {
            tracing::error!("e");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
            tracing::trace!("t");
        };
        assert_eq!(written(true, log), "<3>e\n<4>w\n<6>i\n<7>d\n");
        assert_eq!(written(false, log), "error: e\nwarning: w\ni\ndebug: d\n");
    }

    #[test]
    fn flood_of_warnings_is_counted_not_written() {
        let limit = RateLimit::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((0..417).filter_map(|_| limit.admit(at(1))).count(), 5);
        assert_eq!(limit.admit(at(60)), None);
        let more = limit.admit(at(61)).unwrap();
        assert_eq!(more.to_string(), " (413 similar messages suppressed)");
        assert_eq!(limit.admit(at(62)).unwrap().to_string(), "");
    }
}
