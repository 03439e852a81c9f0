//! A path that is opened again and again, even after a chroot or a change of user.
//!
//! A mail server reads its configuration as root, then enters a chroot jail and changes its user. Its paths
//! lead nowhere there. So the library keeps two descriptors open: the directory, through which the file
//! can still be opened by its name, if its mode allows the new user; and the file itself, as long as it is
//! the one in the directory.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, eaccess};

/// A path, with the directory and the file that were opened before.
#[derive(Debug)]
pub(crate) struct PinnedPath {
    path: PathBuf,
    kept: Option<Pinned>,
    /// The last attempt to open the file anew failed, and the kept file was returned.
    shared: AtomicBool,
}

/// A process' root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root(Option<(u64, u64)>);

impl Root {
    /// Returns the present root directory of this process.
    pub(crate) fn now() -> Self {
        Self::of(Path::new("/"))
    }

    /// Returns the root directory after a chroot to this directory.
    pub(crate) fn of(directory: &Path) -> Self {
        Self(fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino())))
    }

    /// Whether it is still the root directory of the process, so that paths lead to the same files.
    pub(crate) fn is_still(self) -> bool {
        self == Self::now()
    }
}

#[derive(Debug)]
struct Pinned {
    root: Root,
    directory: File,
    name: OsString,
    /// `None`: it was missing or unreadable.
    file: Option<File>,
}

impl PinnedPath {
    /// Returns a path that keeps nothing open.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, kept: None, shared: AtomicBool::new(false) }
    }

    /// Opens the directory and the file, and keeps them open. Symbolic links are followed now, and not
    /// later.
    ///
    /// # Errors
    ///
    /// If there are no descriptors or no memory for it. A missing or unreadable file is no error.
    pub(crate) fn keep(path: PathBuf) -> io::Result<Self> {
        let kept = Pinned::of(&path)?;
        Ok(Self { kept, ..Self::at(path) })
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file that is there now for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        let Some(kept) = &self.kept else { return by_path(&self.path) };
        // By the directory only if the path fails: the directory may have been moved aside.
        if kept.root.is_still() {
            match by_path(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                opened => {
                    self.shared.store(false, Relaxed);
                    return opened;
                }
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&kept.directory, kept.name.as_os_str(), flags, Mode::empty()) {
            Ok(file) => {
                self.shared.store(false, Relaxed);
                Ok(File::from(file))
            }
            Err(refused @ (Errno::EACCES | Errno::EPERM)) => {
                let file = kept.file.as_ref().ok_or(refused)?;
                // Cyrus replaces a file by renaming another one over it.
                if file.metadata()?.nlink() == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        "was replaced, and this process may not read the new one",
                    ));
                }
                self.shared.store(true, Relaxed);
                file.try_clone()
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the file that was kept open, if any.
    pub(crate) fn kept_file(&self) -> Option<&File> {
        self.kept.as_ref()?.file.as_ref()
    }

    /// Whether [`Self::open`] last returned the kept file. A lock on it would belong to all its users.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Relaxed)
    }

    /// Returns the metadata of the file that is there now. Opens the file for that: a list that can no
    /// longer be read makes no recipient unknown.
    pub(crate) fn standing(&self) -> io::Result<fs::Metadata> {
        match self.open() {
            Ok(file) => file.metadata(),
            // No descriptor is left. None is needed to see which file is there and whether it may be read,
            // so names of an open list are still found.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
                    && self.kept.as_ref().is_none_or(|kept| kept.root.is_still()) =>
            {
                eaccess(&self.path, AccessFlags::R_OK)?;
                fs::metadata(&self.path)
            }
            Err(error) => Err(error),
        }
    }
}

impl Pinned {
    /// Opens directory and file; `None`: there is no such directory, or it may not be entered.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let Some(name) = path.file_name().map(ToOwned::to_owned) else { return Ok(None) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(flags);
        let directory = options.open(parent.unwrap_or(Path::new(".")));
        let Some(directory) = if_there(directory)? else { return Ok(None) };
        let file = if_there(by_path(&path))?;
        Ok(Some(Self { root: Root::now(), directory, name, file }))
    }
}

/// Turns the error of a missing or unreadable file into `None`. Keeps the errors of a system that can open
/// nothing now.
fn if_there(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if lacks_resources(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether an error is due to a lack of descriptors or memory.
pub(crate) fn lacks_resources(error: &io::Error) -> bool {
    let scarce = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|code| scarce.contains(&code))
}

fn by_path(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a FIFO in its place must not keep us waiting for a writer.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::lists::{FileList, FileListOptions};
    use crate::model::list::Lookup;
    use crate::model::name::MailboxName;

    #[test]
    fn known_recipient_is_found_without_a_free_descriptor() {
        const CHILD: &str = "MURDER_ROUTE_TEST_CHILD";
        let name = "os::pinned_path::tests::known_recipient_is_found_without_a_free_descriptor";
        // The limit is the process's: other tests must not run into it.
        if std::env::var_os(CHILD).is_none() {
            let mut child = Command::new("sh");
            child.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]);
            child.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
            let output = child.env(CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mailboxes.db");
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/demo/mailboxes.db");
        fs::copy(demo, &path).unwrap();
        // Each lookup checks the file anew.
        let options = FileListOptions { max_hit_age: Duration::ZERO, ..FileListOptions::default() };
        let list = FileList::open(&path, options);
        let look = |name: &str| list.lookup_now(&MailboxName::new(name).unwrap());
        assert!(matches!(look("user.jane"), Lookup::Present(_)));
        let mut hoard = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        assert!(matches!(look("user.jane"), Lookup::Present(_)));
        assert!(matches!(look("user.nobody"), Lookup::Absent));
        // Another file cannot be opened, which makes no name absent.
        fs::copy(&path, directory.path().join("new")).unwrap_err();
        fs::remove_file(&path).unwrap();
        assert!(matches!(look("user.jane"), Lookup::Unsure(_)));
        assert!(matches!(look("user.nobody"), Lookup::Unsure(_)));
    }
}
