//! The high-water mark of a list of this host, in a file of the state directory.
//!
//! Without it a daemon that starts beside an emptied list would trust the list.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::loss_guard::HighWater;

/// First word of the file.
const MAGIC: &str = "murder-route-high-water";

/// State of a mark whose loss was accepted.
const ACCEPTED: &str = "accepted";

/// Maximum length of the file in bytes.
const MAX_LENGTH: u64 = 8192;

/// Prefix of the names of all mark files.
const PREFIX: &str = "mailboxes-db-";

/// Contents of a mark file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredMark {
    /// Number of names that the list had.
    Mark(HighWater),
    /// The loss was accepted (`replica accept`): the present number of names counts.
    Accepted,
}

/// The mark file of one list.
#[derive(Debug, Clone)]
pub struct MarkFile {
    path: PathBuf,
    list: PathBuf,
}

impl MarkFile {
    /// Returns the file for the list at this path, in this directory, which need not exist.
    pub fn new(directory: &Path, list: &Path) -> Self {
        // FNV-1a, which is the same in every process. Each list has a file of its own.
        let hash =
            list.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| {
                (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
            });
        let path = directory.join(format!("{PREFIX}{hash:016x}"));
        Self { path, list: list.to_owned() }
    }

    /// Returns the path of the mark file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; `None`: it is missing, unreadable, or not a mark of this list.
    pub fn load(&self) -> Option<StoredMark> {
        parse(&read(&self.path).ok()?, Some(&self.list))
    }

    /// Replaces the file. Creates its directory, but no parent of that.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; it then is as before.
    pub fn store(&self, mark: HighWater) -> io::Result<()> {
        if let Some(directory) = self.path.parent()
            && !directory.is_dir()
        {
            DirBuilder::new().mode(0o750).create(directory)?;
        }
        let state = if mark.distrusted { "distrusted" } else { "trusted" };
        write(&self.path, &format!("{MAGIC} {} {state} {}\n", mark.names, self.list.display()))
    }
}

/// Accepts the losses of all lists with a mark in this directory. Returns the number of accepted losses.
///
/// # Errors
///
/// If a file cannot be written.
pub fn accept(directory: &Path) -> io::Result<u64> {
    let mut accepted = 0;
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(PREFIX) || name.contains('.') {
            continue;
        }
        let Ok(text) = read(&path) else { continue };
        let Some(StoredMark::Mark(HighWater { names, distrusted: true })) = parse(&text, None)
        else {
            continue;
        };
        let list = text.splitn(4, ' ').nth(3).unwrap_or_default();
        write(&path, &format!("{MAGIC} {names} {ACCEPTED} {list}"))?;
        accepted += 1;
    }
    Ok(accepted)
}

fn parse(text: &str, list: Option<&Path>) -> Option<StoredMark> {
    let mut words = text.strip_suffix('\n')?.splitn(4, ' ');
    if words.next() != Some(MAGIC) {
        return None;
    }
    let (names, state, of) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    if list.is_some_and(|list| list.display().to_string() != of) {
        return None;
    }
    match state {
        "trusted" => Some(StoredMark::Mark(HighWater { names, distrusted: false })),
        "distrusted" => Some(StoredMark::Mark(HighWater { names, distrusted: true })),
        ACCEPTED => Some(StoredMark::Accepted),
        _ => None,
    }
}

fn read(path: &Path) -> io::Result<String> {
    // Does not wait for the writer of a FIFO.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_LENGTH).read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    // A process that was killed may have left it.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_is_read_as_it_was_stored_and_for_its_own_list_only() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let file = MarkFile::new(&state, Path::new("/var/lib/cyrus/mailboxes.db"));
        assert_eq!(file.load(), None);
        for distrusted in [false, true, false] {
            let mark = HighWater { names: 130, distrusted };
            file.store(mark).unwrap();
            assert_eq!(file.load(), Some(StoredMark::Mark(mark)));
        }
        let other = MarkFile { list: "/elsewhere".into(), ..file.clone() };
        assert_eq!(other.load(), None);
        assert_ne!(MarkFile::new(&state, Path::new("/elsewhere")).path(), file.path());
        for text in
            ["", "x", "murder-route-high-water 1 odd /l\n", "murder-route-high-water -1 trusted"]
        {
            fs::write(file.path(), text).unwrap();
            assert_eq!(file.load(), None, "{text}");
        }
    }

    #[test]
    fn only_a_loss_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let file = MarkFile::new(directory.path(), Path::new("/a list"));
        assert_eq!(accept(&directory.path().join("none")).unwrap(), 0);
        file.store(HighWater { names: 10, distrusted: false }).unwrap();
        assert_eq!(accept(directory.path()).unwrap(), 0);
        file.store(HighWater { names: 10, distrusted: true }).unwrap();
        assert_eq!(accept(directory.path()).unwrap(), 1);
        assert_eq!(file.load(), Some(StoredMark::Accepted));
    }
}
