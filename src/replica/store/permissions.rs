//! Creation, modes and owners of the replica's files, and advice where they keep a process out.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Gid, Group, Uid, User, eaccess, getegid, geteuid};

use super::error::Error;

/// Creates a file with this mode, if it does not exist.
pub(super) fn create_file(path: &Path, mode: u32) -> Result<(), Error> {
    let err = |source| Error::Io { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        // Independent of the umask: the directory also restricts readers.
        Ok(file) => file.set_permissions(fs::Permissions::from_mode(mode)).map_err(err),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(err(error)),
    }
}

/// Creates the table of readers, if it does not exist, for the owner of the data. LMDB would create it
/// for the user of this process only, and a table that root has created by reading keeps the daemon
/// out. Where that is not possible, LMDB reports why.
pub(super) fn create_lock(dir: &Path, data: &Metadata) {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o660);
    if let Ok(lock) = options.open(dir.join("lock.mdb")) {
        let _ = lock.set_permissions(fs::Permissions::from_mode(0o660));
        let _ = fchown(&lock, Some(data.uid()), Some(data.gid()));
    }
}

/// Checks the files before LMDB opens them: it would wait for ever at a FIFO, and calls a file without
/// bytes invalid.
pub(super) fn check_files(dir: &Path, data: &Metadata, writable: bool) -> Result<(), Error> {
    let (data_path, lock) = (dir.join("data.mdb"), dir.join("lock.mdb"));
    let is_file = |path: &Path, metadata: &Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(Error::NotRegular(path.to_owned())),
    };
    is_file(&data_path, data)?;
    match fs::metadata(&lock) {
        Ok(metadata) => is_file(&lock, &metadata)?,
        // LMDB reports why it cannot create it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Io { path: lock, source }),
    }
    match data.len() {
        0 if !writable => Err(Error::Empty(data_path)),
        _ => Ok(()),
    }
}

/// The error of an environment that cannot be opened, with advice for a reader.
pub(super) fn refused(dir: &Path, error: heed::Error) -> Error {
    match error {
        heed::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let data = dir.join("data.mdb");
            let (path, right) = match File::open(&data) {
                Ok(_) => (dir.join("lock.mdb"), "be able to write to this file"),
                Err(_) => (data, "be able to read this file"),
            };
            let why = format!(
                "a reader of the replica must {right}: run it as the daemon's user or in its group"
            );
            Error::Io { path, source: io::Error::new(error.kind(), why) }
        }
        error => Error::lmdb(dir, error),
    }
}

/// The process that wants to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriterRole {
    /// It follows the master: the whole directory must belong to its user.
    Follower,
    /// It writes beside the follower (`replica accept`).
    Guest,
}

/// Adds to an error what to do if another user owns the files. It looks up names of users, which may
/// take time.
pub(super) fn explained(dir: &Path, writer: WriterRole, error: Error) -> Error {
    match error {
        Error::Io { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
            let (path, why) = match advice(dir, writer) {
                Some((path, advice)) => (path, format!("permission denied: {advice}")),
                None => (path, source.to_string()),
            };
            Error::Io { path, source: io::Error::new(io::ErrorKind::PermissionDenied, why) }
        }
        error => error,
    }
}

/// Path that keeps this process out, and the correction.
fn advice(dir: &Path, writer: WriterRole) -> Option<(PathBuf, String)> {
    let whole = match fs::metadata(dir) {
        Ok(whole) => whole,
        Err(error) if error.kind() == io::ErrorKind::NotFound && writer == WriterRole::Follower => {
            let (user, group, dir) = (user(geteuid()), group(getegid()), dir.to_owned());
            let make = format!("install -d -o {user} -g {group} -m 0750 {}", dir.display());
            return Some((dir, format!("user {user} cannot make it: {make}")));
        }
        Err(_) => return None,
    };
    let read_write = AccessFlags::R_OK | AccessFlags::W_OK;
    let files = ["lock", "data.mdb", "lock.mdb"].map(|name| (dir.join(name), read_write));
    // A directory without search permission hides its files.
    let all = files.into_iter().chain([(dir.to_owned(), read_write | AccessFlags::X_OK)]);
    let (path, meta) = all
        // A guest takes no lock.
        .skip(usize::from(writer == WriterRole::Guest))
        .filter(|(path, mode)| eaccess(path, *mode).is_err())
        .find_map(|(path, _)| Some((path.clone(), fs::metadata(path).ok()?)))?;
    let own = geteuid();
    let (us, owner) = (user(own), user(Uid::from_raw(meta.uid())));
    let advice = if meta.uid() == own.as_raw() {
        let mode = meta.permissions().mode() & 0o7777;
        format!("it is user {us}'s own, with mode {mode:04o}: chmod u+rwX {}", path.display())
    } else if writer == WriterRole::Follower || whole.uid() == own.as_raw() {
        format!(
            "it belongs to user {owner}, and this murder-route runs as {us}: if the directory is for \
             the replica alone, chown -R {us}:{} {}",
            group(getegid()),
            dir.display()
        )
    } else {
        format!("it belongs to user {owner}: run this as {}", user(Uid::from_raw(whole.uid())))
    };
    Some((path, advice))
}

/// Name of a user, or its number if it has none.
fn user(uid: Uid) -> String {
    let found = User::from_uid(uid).ok().flatten();
    found.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Name of a group, or its number if it has none.
fn group(gid: Gid) -> String {
    let found = Group::from_gid(gid).ok().flatten();
    found.map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::super::{ReplicaList, ReplicaWriter, accept};
    use super::*;

    /// Errors of this process without the right to write: as follower, as guest, and as reader.
    fn refusals(dir: &Path) -> [String; 3] {
        let read = ReplicaList::open(dir).unwrap().about();
        [ReplicaWriter::open_or_begin_anew(dir).map(drop), accept(dir).map(drop), read.map(drop)]
            .map(|refused| refused.unwrap_err().to_string())
    }

    /// Otherwise a daemon would not start, and would only report that permission is denied.
    #[test]
    fn replica_of_another_user_is_reported_with_advice() {
        const CHILD: &str = "MURDER_ROUTE_TEST_REPLICA";
        if let Some(dir) = std::env::var_os(CHILD) {
            println!("refused: {}", refusals(Path::new(&dir)).join("; "));
            return;
        }
        let own = user(geteuid());
        if !geteuid().is_root() {
            let [told, ..] = refusals(Path::new("/"));
            assert!(told.starts_with("/: permission denied: it belongs to user root"), "{told}");
            assert!(told.contains(&format!("runs as {own}: ")) && told.ends_with(" /"), "{told}");
            return;
        }
        let stranger = 12_345;
        let (us, ours) = (user(Uid::from_raw(stranger)), group(Gid::from_raw(stranger)));
        let name = "replica_of_another_user_is_reported_with_advice";
        let open = fs::Permissions::from_mode(0o755);
        let outer = tempfile::Builder::new().permissions(open.clone()).tempdir().unwrap();
        let dir = outer.path().join("replica");
        let refused = || {
            // By this name it can be run also where the other user may not go.
            let mut again = Command::new("/proc/self/exe");
            again.args([
                "--exact",
                &format!("replica::store::permissions::tests::{name}"),
                "--nocapture",
            ]);
            let output = again.env(CHILD, &dir).uid(stranger).gid(stranger).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            let told = text.lines().find_map(|line| line.split_once("refused: ")).unwrap().1;
            let [follower, guest, reader] = told.split("; ").collect::<Vec<_>>()[..] else {
                panic!("{told}")
            };
            let makes_sense = reader.ends_with("run it as the daemon's user or in its group");
            assert!(makes_sense || !dir.exists(), "{reader}");
            [follower.to_owned(), guest.to_owned()]
        };
        let [dir_, lock, data, readers] =
            ["", "/lock", "/data.mdb", "/lock.mdb"].map(|name| format!("{}{name}", dir.display()));
        let denied = |path: &str| format!("{path}: permission denied: ");

        let [follower, _] = refused();
        let make = format!("user {us} cannot make it: install -d -o {us} -g {ours} -m 0750 {dir_}");
        assert_eq!(follower, denied(&dir_) + &make);

        drop(ReplicaWriter::open(&dir).unwrap());
        let give = format!(
            "it belongs to user root, and this murder-route runs as {us}: if the directory is for the \
             replica alone, chown -R {us}:{ours} {dir_}"
        );
        let as_root = "it belongs to user root: run this as root";
        assert_eq!(refused(), [denied(&dir_) + &give, denied(&dir_) + as_root]);
        fs::set_permissions(&dir, open).unwrap();
        assert_eq!(refused(), [denied(&lock) + &give, denied(&data) + as_root]);
        // As after a change of the daemon's user that omitted one of the files.
        for (path, next) in [(&dir_, &lock), (&lock, &data), (&data, &readers)] {
            chown(path, Some(stranger), Some(stranger)).unwrap();
            assert_eq!(refused()[0], denied(next) + &give);
        }
        assert_eq!(refused()[1], denied(&readers) + &give);
        chown(&readers, Some(stranger), Some(stranger)).unwrap();
        fs::set_permissions(&readers, fs::Permissions::from_mode(0o000)).unwrap();
        let own = format!("it is user {us}'s own, with mode 0000: chmod u+rwX {readers}");
        assert_eq!(refused()[0], denied(&readers) + &own);
    }
}
