//! Opens listening sockets: unix, TCP, and those passed by systemd.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getsockname, getsockopt,
    sockopt,
};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;

use crate::model::shown::Shown;
use crate::os::accounts;
use crate::wire::endpoint::{DEFAULT_MODE, Endpoint, ListenOptions};

/// Reason why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {endpoint}: {why}")]
pub struct ListenError {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The cause and, if possible, what to do.
    pub why: String,
}

/// An open listening socket, with its file in the file system.
pub(super) enum Socket<File> {
    /// Unix. Sockets of systemd have no file of ours.
    Unix(UnixListener, Option<File>),
    /// TCP.
    Tcp(TcpListener),
}

impl Socket<NewSocket> {
    /// Puts the socket at its path, where clients can connect.
    pub(super) fn place(self) -> Result<Socket<PlacedSocket>, String> {
        Ok(match self {
            Socket::Unix(listener, file) => {
                Socket::Unix(listener, file.map(NewSocket::place).transpose()?)
            }
            Socket::Tcp(listener) => Socket::Tcp(listener),
        })
    }
}

/// A socket of this process in the file system. Removed on drop, unless the path leads to another socket
/// by then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Whether its path still leads to this socket.
    pub(super) fn is_in_place(&self) -> bool {
        self.is_at(&self.path)
    }

    /// Whether `path` leads to this socket: a directory may have two names.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("{}: cannot remove the socket: {error}", self.path.display());
        }
    }
}

/// Whether both endpoints are equal: a directory may have two names, as /run and /var/run.
pub(super) fn same_place(one: &Endpoint, other: &Endpoint) -> bool {
    one == other
        || match (one, other) {
            (Endpoint::Unix(one), Endpoint::Unix(other)) => {
                let directory = |path: &Path| fs::canonicalize(path.parent()?).ok();
                one.file_name() == other.file_name()
                    && directory(one).is_some_and(|one| Some(one) == directory(other))
            }
            _ => false,
        }
}

/// Sockets that this process already has.
pub(super) struct OwnSockets<'a> {
    /// In the file system. They may be replaced even if they answer.
    pub(super) files: Vec<&'a SocketFile>,
    /// TCP ports, of any address.
    pub(super) ports: Vec<u16>,
    /// Passed by systemd.
    pub(super) inherited: &'a SystemdSockets,
}

/// Timeout for opening an endpoint: for name service lookups of hosts and accounts.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens an endpoint. A host name may give several sockets. Clients notice nothing yet.
pub(super) async fn open(
    endpoint: &Endpoint,
    options: &ListenOptions,
    ours: &OwnSockets<'_>,
) -> Result<Vec<Socket<NewSocket>>, ListenError> {
    let open = async {
        match endpoint {
            Endpoint::Unix(path) => unix(path, options, ours).await,
            Endpoint::Inet { host, port } => tcp(host, *port, &ours.ports).await,
            Endpoint::Systemd(name) => ours.inherited.sockets(name),
        }
    };
    let sockets = timeout(OPEN_TIMEOUT, open).await.unwrap_or_else(|_| {
        let seconds = OPEN_TIMEOUT.as_secs();
        Err(format!("no answer of the name service within {seconds} s; use numbers instead"))
    });
    sockets.map_err(|why| ListenError { endpoint: endpoint.clone(), why })
}

/// Prefixes an error with what failed.
fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Opens a unix socket. It is prepared where no client can reach it, in a new directory of mode 0700
/// beside its path, and later renamed over a stale socket there. So it never has wrong permissions, there
/// is always a socket at the path, and the umask does not matter.
async fn unix(
    path: &Path,
    options: &ListenOptions,
    ours: &OwnSockets<'_>,
) -> Result<Vec<Socket<NewSocket>>, String> {
    // A longer path can be created, but no client could connect to it: unix(7).
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(format!("the path is longer than {PATH_LIMIT} bytes"));
    }
    let replaces_ours = ours.files.iter().any(|file| file.is_at(path));
    if !replaces_ours {
        refuse_if_taken(path, ours.inherited).await?;
    }
    // Accounts may be in a directory service on another host.
    let named = options.clone();
    let accounts = tokio::task::spawn_blocking(move || {
        accounts::ids(named.owner.as_deref(), named.group.as_deref())
    })
    .await;
    let (uid, gid) = accounts.map_err(failed("cannot look up the owner or the group"))??;
    let mode = options.mode.unwrap_or(DEFAULT_MODE);

    let staging = StagingDirectory::new(path.parent().unwrap_or(Path::new("/")))?;
    let unplaced = staging.socket();
    let listener = UnixListener::bind(&unplaced).map_err(failed(format_args!(
        "cannot create a socket at {} (of at most {PATH_LIMIT} bytes)",
        unplaced.display()
    )))?;
    // The mode before the owner: after a change of owner we may not set it any more.
    fs::set_permissions(&unplaced, Permissions::from_mode(mode & 0o7777))
        .map_err(failed(format_args!("cannot set mode {mode:o}")))?;
    if uid.is_some() || gid.is_some() {
        lchown(&unplaced, uid, gid).map_err(failed("cannot set the owner or the group"))?;
    }
    let new = NewSocket { path: path.to_owned(), staging, replaces_ours };
    Ok(vec![Socket::Unix(listener, Some(new))])
}

/// Maximum length of a path in a unix socket address on Linux, without the final NUL.
const PATH_LIMIT: usize = 107;

/// A socket with its permissions that is not at its path yet.
pub(super) struct NewSocket {
    path: PathBuf,
    staging: StagingDirectory,
    /// Whether this process serves clients at the path.
    replaces_ours: bool,
}

impl NewSocket {
    /// Puts the socket at its path, where clients can connect.
    pub(super) fn place(self) -> Result<PlacedSocket, String> {
        let Self { path, staging, replaces_ours } = self;
        let unplaced = staging.socket();
        let meta = fs::symlink_metadata(&unplaced).map_err(failed("cannot stat the new socket"))?;
        if replaces_ours {
            // A second name, so that the path always leads to a socket.
            fs::hard_link(&path, staging.former())
                .map_err(failed("cannot keep a link to the old socket"))?;
        }
        fs::rename(&unplaced, &path).map_err(failed("cannot rename the new socket to its path"))?;
        let file = SocketFile { path, device: meta.dev(), inode: meta.ino() };
        Ok(PlacedSocket { file: Some(file), staging, replaced_ours: replaces_ours })
    }
}

/// A socket at its path, while others may still fail. On drop the path is given back to our
/// former socket there.
pub(super) struct PlacedSocket {
    /// Taken by [`PlacedSocket::keep`].
    file: Option<SocketFile>,
    staging: StagingDirectory,
    replaced_ours: bool,
}

impl PlacedSocket {
    /// Keeps the socket; the former one has lost its path permanently.
    pub(super) fn keep(mut self) -> Option<SocketFile> {
        self.file.take()
    }
}

impl Drop for PlacedSocket {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && self.replaced_ours
            && file.is_in_place()
            && let Err(error) = fs::rename(self.staging.former(), &file.path)
        {
            let path = file.path.display();
            tracing::error!(
                "{path}: cannot restore the listening socket: {error}; clients cannot connect until \
                 the next reload"
            );
        }
    }
}

/// A private directory in which a socket is prepared. Removed on drop.
///
/// Other users may be able to write to its parent directory, and may have created a file of this name or
/// replace the directory with a symbolic link. So the name is random, an existing file is never used, and
/// all paths lead through the open directory.
struct StagingDirectory {
    path: PathBuf,
    /// Kept open for `through`.
    _directory: File,
    through: PathBuf,
}

/// Maximum number of names tried.
const STAGING_ATTEMPTS: u64 = 16;

impl StagingDirectory {
    fn new(parent: &Path) -> Result<Self, String> {
        let fail = |error: io::Error| {
            format!("{}: cannot write in the directory: {error}", parent.display())
        };
        let mut taken = None;
        for attempt in 0..STAGING_ATTEMPTS {
            // Each hasher has random keys.
            let name = RandomState::new().hash_one(attempt);
            let path = parent.join(format!(".mr{name:016x}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Self::made(path).map_err(fail),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = Some(error),
                Err(error) => return Err(fail(error)),
            }
        }
        Err(taken.map_or_else(String::new, fail))
    }

    fn made(path: PathBuf) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        let metadata = directory.metadata()?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("another user replaced the staging directory"));
        }
        // proc(5): the open directory itself, wherever its name leads by now.
        let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let is_same = fs::metadata(&through)
            .is_ok_and(|seen| (seen.dev(), seen.ino()) == (metadata.dev(), metadata.ino()));
        let through = if is_same { through } else { path.clone() };
        Ok(Self { path, _directory: directory, through })
    }

    /// A name of one character: the path must fit into a socket address.
    fn socket(&self) -> PathBuf {
        self.through.join("s")
    }

    /// Second name of the socket that is replaced.
    fn former(&self) -> PathBuf {
        self.through.join("f")
    }
}

impl Drop for StagingDirectory {
    fn drop(&mut self) {
        // The socket exists only after a failure.
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_file(self.former());
        let _ = fs::remove_dir(&self.path);
    }
}

/// Fails unless the path is free, or leads to a socket at which no program answers.
async fn refuse_if_taken(path: &Path, inherited: &SystemdSockets) -> Result<(), String> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !meta.file_type().is_socket() {
        return Err("a file that is not a socket has this name; remove it or choose another name"
            .to_owned());
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(match inherited.name_at(path) {
            Some(name) => format!("systemd opened it for this daemon; use systemd:{name} instead"),
            None => "another program answers there; stop it first".to_owned(),
        }),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            // A program too busy to accept.
            io::ErrorKind::WouldBlock => {
                Err("another program listens there; stop it first".to_owned())
            }
            _ => Err(format!("cannot tell whether another program answers there: {error}")),
        },
    }
}

async fn tcp(host: &str, port: u16, ours: &[u16]) -> Result<Vec<Socket<NewSocket>>, String> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(failed(format_args!("cannot resolve `{}`", Shown(host))))?;
    let mut sockets = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let hint = match error.kind() == io::ErrorKind::AddrInUse && ours.contains(&port) {
                true => "; this daemon already has the port, for another address; restart it",
                false => "",
            };
            format!("{address}: {error}{hint}")
        })?;
        sockets.push(Socket::Tcp(listener));
    }
    if sockets.is_empty() {
        return Err(format!("`{}` has no address", Shown(host)));
    }
    Ok(sockets)
}

/// The sockets that systemd passed to this process, by name.
#[derive(Debug, Default)]
pub(super) struct SystemdSockets(HashMap<String, Vec<OwnedFd>>);

impl SystemdSockets {
    /// Takes the sockets of sd_listen_fds(3). The first caller gets them; for later callers, and without
    /// systemd, there are none.
    pub(super) fn take() -> Result<Self, String> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = HashMap::<_, Vec<_>>::new();
        if !TAKEN.swap(true, Ordering::Relaxed) {
            let sockets = sd_notify::listen_fds_with_names()
                .map_err(failed("cannot take the sockets passed by systemd"))?;
            for (fd, name) in sockets {
                #[expect(unsafe_code, reason = "the environment can only name it as a number")]
                // SAFETY: LISTEN_PID is this process, so by sd_listen_fds(3) the descriptor is open
                // and was passed to us as owner; the sd-notify crate has just set a flag on it,
                // which fails for a closed one. TAKEN makes us the only owner.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                inherited.entry(name).or_default().push(fd);
            }
        }
        Ok(SystemdSockets(inherited))
    }

    /// Returns the names of the sockets.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether systemd opened a socket at this address and port.
    pub(super) fn has_at(&self, address: Option<std::net::SocketAddr>) -> bool {
        let Some(address) = address.map(SockaddrStorage::from) else { return false };
        let at = |fd: &OwnedFd| {
            getsockname::<SockaddrStorage>(fd.as_raw_fd()).is_ok_and(|name| name == address)
        };
        self.0.values().flatten().any(at)
    }

    /// Returns the name of the socket that systemd opened at this path.
    fn name_at(&self, path: &Path) -> Option<&str> {
        let at_path = |fd: &OwnedFd| {
            getsockname::<UnixAddr>(fd.as_raw_fd()).is_ok_and(|name| name.path() == Some(path))
        };
        let found = self.0.iter().find(|(_, fds)| fds.iter().any(at_path));
        found.map(|(name, _)| name.as_str())
    }

    /// Duplicates the sockets of a name, so that a reload can close and open the endpoint again.
    fn sockets(&self, name: &str) -> Result<Vec<Socket<NewSocket>>, String> {
        let fds = self.0.get(name).ok_or_else(|| {
            let mut names: Vec<_> = self.names().collect();
            names.sort_unstable();
            match names.as_slice() {
                [] => "systemd passed no socket; start the socket unit, not the daemon".to_owned(),
                // systemd's term for a socket without a name (sd_listen_fds_with_names(3)).
                ["unknown"] => format!(
                    "systemd passed no socket named {name}, only one without a name; set \
                     FileDescriptorName={name}, or systemd-socket-activate --fdname={name}, or listen \
                     at systemd:unknown"
                ),
                names => format!(
                    "systemd passed no socket named {name}; it passed {}",
                    names.join(", ")
                ),
            }
        })?;
        fds.iter().map(|fd| listening(fd).map_err(failed("the socket passed by systemd"))).collect()
    }
}

fn listening(fd: &OwnedFd) -> Result<Socket<NewSocket>, String> {
    let text = |error: nix::Error| error.to_string();
    if getsockopt(fd, sockopt::SockType).map_err(text)? != SockType::Stream
        || !getsockopt(fd, sockopt::AcceptConn).map_err(text)?
    {
        return Err("is not a ListenStream= socket with Accept=no".to_owned());
    }
    let name: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(text)?;
    let fd = fd.try_clone().map_err(|error| error.to_string())?;
    // Tokio needs non-blocking sockets; systemd passes blocking ones.
    let socket = match name.family() {
        Some(AddressFamily::Unix) => {
            let listener = std::os::unix::net::UnixListener::from(fd);
            let unix = |listener| Ok(Socket::Unix(UnixListener::from_std(listener)?, None));
            listener.set_nonblocking(true).and_then(|()| unix(listener))
        }
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            let listener = std::net::TcpListener::from(fd);
            let tcp = |listener| Ok(Socket::Tcp(TcpListener::from_std(listener)?));
            listener.set_nonblocking(true).and_then(|()| tcp(listener))
        }
        _ => return Err("is neither unix nor TCP".to_owned()),
    };
    socket.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory with files of the names used in a staging directory.
    fn victim(around: &Path) -> PathBuf {
        let victim = around.join("victim");
        fs::create_dir(&victim).unwrap();
        ["s", "f"].iter().for_each(|name| fs::write(victim.join(name), "precious").unwrap());
        victim
    }

    fn is_whole(victim: &Path) -> bool {
        ["s", "f"].iter().all(|name| fs::read(victim.join(name)).is_ok_and(|it| it == b"precious"))
    }

    #[test]
    fn file_in_place_of_a_staging_directory_is_kept() {
        let around = tempfile::tempdir().unwrap();
        let victim = victim(around.path());
        let staging = StagingDirectory::new(around.path()).unwrap();
        let aside = around.path().join("aside");
        fs::rename(&staging.path, &aside).unwrap();
        symlink(&victim, &staging.path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(staging.socket()).unwrap();
        assert!(fs::symlink_metadata(aside.join("s")).unwrap().file_type().is_socket());
        drop(staging);
        assert!(is_whole(&victim));
        assert!(fs::symlink_metadata(aside.join("s")).is_err());
    }

    #[test]
    fn directory_open_to_others_is_not_used_for_staging() {
        let around = tempfile::tempdir().unwrap();
        let victim = victim(around.path());
        let link = around.path().join("link");
        symlink(&victim, &link).unwrap();
        assert!(StagingDirectory::made(link).is_err());
        fs::set_permissions(&victim, Permissions::from_mode(0o777)).unwrap();
        assert!(StagingDirectory::made(victim.clone()).is_err());
        assert!(is_whole(&victim));
    }

    #[test]
    fn staging_names_cannot_be_guessed() {
        let around = tempfile::tempdir().unwrap();
        let victim = victim(around.path());
        for count in 0..1000 {
            let guessed = format!(".mr{}.{count}", std::process::id());
            symlink(&victim, around.path().join(guessed)).unwrap();
        }
        let names: Vec<PathBuf> =
            (0..2).map(|_| StagingDirectory::new(around.path()).unwrap().path.clone()).collect();
        assert_ne!(names[0], names[1]);
        assert!(is_whole(&victim));
        assert!(names.iter().all(|name| !name.exists()));
    }
}
