//! Reads small files named by the configuration: passwords, certificates, the configuration itself.
//!
//! A path may lead to anything. A FIFO keeps `open` waiting for a writer, and `/dev/zero` never ends;
//! either would stop the mail server's process that loaded the library, or a reload of the daemon. So
//! a file is opened without waiting, must be a regular file, and is read up to a limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file to read it, or the null device, which reads as an empty one.
///
/// # Errors
///
/// Errors of the system; an error that names what is there in place of a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // The library closes descriptors on exec as well: std sets O_CLOEXEC.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        // open(2): the path leads to a socket, or to a device without a driver.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(no_regular_file("a socket or a device"));
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_file() || (kind.is_char_device() && metadata.rdev() == libc::makedev(1, 3)) {
        return Ok(file);
    }
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    Err(no_regular_file(match kind.is_fifo() {
        true => "a FIFO",
        false => "a device",
    }))
}

fn no_regular_file(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, not a regular file"))
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
///
/// As [`open`], or [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_open(&open(path)?, limit)
}

/// Reads the rest of an open file of at most `limit` bytes.
///
/// # Errors
///
/// Errors of the system; [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("is longer than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_and_the_null_device_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert_eq!(read(&path("file"), 4).unwrap(), b"text");
        assert_eq!(read(&path("link"), 4).unwrap(), b"text");
        assert_eq!(read(Path::new("/dev/null"), 4).unwrap(), b"");
        mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (path, says) in [
            (path("fifo"), "is a FIFO, not a regular file"),
            (path("socket"), "is a socket or a device, not a regular file"),
            (path("/dev/zero"), "is a device, not a regular file"),
        ] {
            let error = read(&path, 4).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(error.to_string(), says);
        }
        let error = read(directory.path(), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&path("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn limit_is_checked_while_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        // A sparse file of a terabyte.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read(&path, 1000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "is longer than 1000 bytes");
    }
}
