//! Numbers that a transaction stores: some in memory, further ones in an unlinked file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use super::error::Error;

/// Maximum number of them in memory, which is 1 MiB.
const MAX_IN_MEMORY: usize = 1 << 17;

/// Numbers of one transaction. An endless list must not fill the memory before it reaches its limit.
#[derive(Debug)]
pub(super) struct Notes {
    /// Path of the file. No other process uses it: the directory is locked.
    path: PathBuf,
    latest: Vec<u64>,
    file: Option<File>,
    written: usize,
}

impl Notes {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, latest: Vec::new(), file: None, written: 0 }
    }

    pub(super) fn push(&mut self, number: u64) -> Result<(), Error> {
        if self.latest.len() >= MAX_IN_MEMORY {
            self.write().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        }
        self.latest.push(number);
        Ok(())
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> Result<Vec<u64>, Error> {
        let taken = self.read().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        *self = Self::new(std::mem::take(&mut self.path));
        Ok(taken)
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(unnamed(&self.path)?),
        };
        let bytes: Vec<u8> = self.latest.iter().flat_map(|number| number.to_ne_bytes()).collect();
        file.write_all(&bytes)?;
        self.written += self.latest.len();
        self.latest.clear();
        Ok(())
    }

    fn read(&mut self) -> io::Result<Vec<u64>> {
        let Some(mut file) = self.file.take() else { return Ok(std::mem::take(&mut self.latest)) };
        file.rewind()?;
        let mut all = Vec::with_capacity(self.written.saturating_add(self.latest.len()));
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut number = [0; 8];
        for _ in 0..self.written {
            reader.read_exact(&mut number)?;
            all.push(u64::from_ne_bytes(number));
        }
        all.append(&mut self.latest);
        Ok(all)
    }
}

/// Creates a file that is gone when it is closed, however the process ends.
fn unnamed(path: &PathBuf) -> io::Result<File> {
    let remove = || match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    remove()?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
    remove()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_memory_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        // Left by a daemon that was killed in between.
        fs::write(&path, "junk").unwrap();
        let mut notes = Notes::new(path.clone());
        for count in [0, 10, 3 * MAX_IN_MEMORY as u64, 3 * MAX_IN_MEMORY as u64 + 1] {
            for number in 0..count {
                notes.push(number.wrapping_mul(u64::MAX / 3)).unwrap();
                assert!(notes.latest.len() <= MAX_IN_MEMORY);
            }
            assert_eq!(path.exists(), count <= 10, "the file has no name");
            let expected = (0..count).map(|number| number.wrapping_mul(u64::MAX / 3));
            assert!(notes.take().unwrap().into_iter().eq(expected), "{count}");
        }
    }

    #[test]
    fn file_that_cannot_be_created_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/names");
        let mut notes = Notes::new(path.clone());
        (0..MAX_IN_MEMORY as u64).for_each(|number| notes.push(number).unwrap());
        let why = notes.push(0).unwrap_err().to_string();
        assert!(why.contains(path.to_str().unwrap()), "{why}");
    }
}
