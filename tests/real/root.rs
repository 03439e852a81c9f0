//! The private Debian roots below the cache directory, one for each release of Cyrus: made once,
//! reused, never changed by a run.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::{Done, ensure, run};

/// A release of Cyrus, as Debian has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    V3_2,
    V3_6,
    V3_10,
    V3_12,
}

impl Release {
    pub const ALL: [Self; 4] = [Self::V3_2, Self::V3_6, Self::V3_10, Self::V3_12];

    /// Its number, which is also what `cyrus-release` is set to.
    pub fn number(self) -> &'static str {
        match self {
            Self::V3_2 => "3.2",
            Self::V3_6 => "3.6",
            Self::V3_10 => "3.10",
            Self::V3_12 => "3.12",
        }
    }

    /// The suite of Debian that has it.
    pub fn suite(self) -> &'static str {
        match self {
            Self::V3_2 => "bullseye",
            Self::V3_6 => "bookworm",
            Self::V3_10 => "trixie",
            Self::V3_12 => "sid",
        }
    }

    /// Of which a word says that it is this one.
    pub fn is_called(self, word: &str) -> bool {
        word == self.number() || word == self.suite()
    }

    /// Its root's name in the cache directory, with a number to raise when the recipe below
    /// changes.
    fn root(self) -> String {
        let number = if self == Self::V3_6 { 3 } else { 2 };
        format!("{}-{number}", self.suite())
    }

    /// The release of a cached root.
    pub fn of_root(root: &Path) -> Done<Self> {
        let name = root.file_name().unwrap_or_default();
        let known = Self::ALL.into_iter().find(|release| *release.root() == *name);
        known.ok_or_else(|| format!("{} is no root of ours", root.display()).into())
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.suite())
    }
}

/// `busybox` brings the loopback interface of the run's network namespace up.
const PACKAGES: &str = "cyrus-common,cyrus-imapd,cyrus-murder,cyrus-clients,cyrus-admin,\
                        postfix,sasl2-bin,libsasl2-modules,busybox";

/// In bullseye SCRAM is not among the other mechanisms, but comes with Kerberos.
const MORE_FOR_3_2: &str = ",libsasl2-modules-gssapi-mit";

/// `make bench` measures against tables of this kind.
const MORE_FOR_3_6: &str = ",postfix-lmdb";

/// What a run starts or asks; a root that lacks one of them is not whole.
const PROGRAMS: [&str; 8] = [
    "usr/lib/cyrus/bin/master",
    "usr/lib/cyrus/bin/mupdate",
    "usr/lib/cyrus/bin/imapd",
    "usr/lib/cyrus/bin/lmtpd",
    "usr/lib/cyrus/bin/mupdatetest",
    "usr/sbin/postfix",
    "usr/sbin/saslpasswd2",
    "bin/busybox",
];

/// Where Debian keeps the suites that have left its mirrors.
const ARCHIVE: &str = "http://archive.debian.org/debian";

/// What is unpacked is given up and built anew if the machine dies, so nothing need wait for the
/// disk; and nobody reads manuals there.
const DPKG: &str = "force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
";

/// The cached roots of these releases, in their order; each is built first, if there is none. One
/// takes two minutes or three then, and the network. Two are built at a time.
pub fn ensure_roots(releases: &[Release]) -> Vec<Done<PathBuf>> {
    let next = Mutex::new(releases.iter().enumerate());
    let done: Mutex<Vec<_>> = Mutex::new(releases.iter().map(|_| None).collect());
    let work = || {
        loop {
            let job = next.lock().ok().and_then(|mut next| next.next());
            let Some((nth, release)) = job else { return };
            let root = ensure_root(*release);
            if let Ok(mut done) = done.lock() {
                done[nth] = Some(root);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let done = done.into_inner().unwrap_or_default();
    done.into_iter().map(|root| root.unwrap_or_else(|| Err("nobody built it".into()))).collect()
}

/// The cached root of a release; built first, if there is none.
pub fn ensure_root(release: Release) -> Done<PathBuf> {
    ensure!(geteuid().is_root(), "run as root: it takes namespaces and a Debian root of its own");
    let cache = std::env::var_os("MURDER_ROUTE_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/murder-route"), PathBuf::from);
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let cache = cache.canonicalize()?;
    let name = release.root();
    let root = cache.join(&name);

    // Two runs at once must not build the same root.
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if !root.exists() {
        // Whatever stands under the final name is whole: it gets there by this rename only.
        let part = cache.join(format!("{name}.part"));
        let start = Instant::now();
        install_debootstrap(&cache)?;
        build(&part, release)?;
        fs::rename(&part, &root)?;
        println!("the root of Cyrus {release} was built in {} s", start.elapsed().as_secs());
    }
    Ok(root)
}

fn lock(path: &Path) -> Done<Flock<fs::File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| format!("{}: {e}", path.display()))?)
}

fn install_debootstrap(cache: &Path) -> Done {
    // apt takes one at a time, and says no to the other.
    let _lock = lock(&cache.join("apt.lock"))?;
    if run(Command::new("sh").args(["-c", "command -v debootstrap"])).is_err() {
        println!("installing debootstrap");
        let install =
            || run(apt_get().args(["install", "-y", "--no-install-recommends", "debootstrap"]));
        // The lists may be missing or old; and one of them out of reach is no reason to give up.
        if install().is_err() {
            let _ = run(apt_get().arg("update"));
            install()?;
        }
    }
    Ok(())
}

fn build(part: &Path, release: Release) -> Done {
    let mut mirrors = vec![mirror()];
    // A suite that is no longer supported is moved there one day.
    if release == Release::V3_2 {
        mirrors.push(ARCHIVE.to_owned());
    }
    let mut failures = String::new();
    for mirror in mirrors {
        println!("building the root of Cyrus {release} from {mirror}");
        match build_from(&mirror, part, release) {
            Ok(()) => return Ok(()),
            Err(e) => failures += &format!("{e}\n"),
        }
    }
    Err(failures.into())
}

fn build_from(mirror: &str, part: &Path, release: Release) -> Done {
    if part.exists() {
        fs::remove_dir_all(part).map_err(|e| format!("{}: {e}", part.display()))?;
    }
    // A package must not start its daemon when it is installed.
    let policy = part.join("usr/sbin/policy-rc.d");
    fs::create_dir_all(part.join("usr/sbin"))?;
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    run(Command::new("chmod").arg("755").arg(&policy))?;
    fs::create_dir_all(part.join("etc/dpkg/dpkg.cfg.d"))?;
    fs::write(part.join("etc/dpkg/dpkg.cfg.d/quick"), DPKG)?;

    let more = match release {
        Release::V3_2 => MORE_FOR_3_2,
        Release::V3_6 => MORE_FOR_3_6,
        Release::V3_10 | Release::V3_12 => "",
    };
    // In namespaces of its own, so that neither a mount nor a process of it can outlive it.
    let mut debootstrap = Command::new("unshare");
    debootstrap
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["debootstrap", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}{more}"))
        .arg(release.suite())
        .arg(part)
        .arg(mirror)
        .env("DEBIAN_FRONTEND", "noninteractive");
    // An older debootstrap does not know a newer suite; they are all made alike.
    let scripts = Path::new("/usr/share/debootstrap/scripts");
    if !scripts.join(release.suite()).exists() {
        debootstrap.arg(scripts.join("sid"));
    }
    let done = run(&mut debootstrap).map(drop);
    let complaint = match done {
        // In sid a package may not get through its own set-up, and its programs work all the same.
        Err(e) if release == Release::V3_12 => e.to_string(),
        done => {
            done?;
            String::new()
        }
    };
    // What is needed later is checked here, where it can be built anew.
    for program in PROGRAMS {
        let there = part.join(program).exists();
        ensure!(there, "{program} is missing in {}: {complaint}", part.display());
    }
    let users = fs::read_to_string(part.join("etc/passwd"))?;
    for user in ["cyrus:", "postfix:"] {
        let there = users.lines().any(|line| line.starts_with(user));
        ensure!(there, "there is no user {user} in {}: {complaint}", part.display());
    }
    let _ = fs::remove_dir_all(part.join("var/cache/apt/archives"));
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}

/// The Debian mirror this host's apt uses, so that a site's own mirror is honoured.
fn mirror() -> String {
    let targets = run(Command::new("apt-get").args([
        "indextargets",
        "Created-By: Packages",
        "--format",
        "$(ORIGIN) $(REPO_URI)",
    ]))
    .unwrap_or_default();
    targets
        .lines()
        .filter_map(|line| line.strip_prefix("Debian "))
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .unwrap_or("http://deb.debian.org/debian")
        .to_owned()
}
