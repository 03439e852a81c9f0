//! The private Debian roots in the cache directory: one for each release of Cyrus, one for each mail server
//! that cannot be installed beside Postfix, and two bootable ones. They are built once, reused, and never
//! changed by a run.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::{Done, ensure, run};

/// A release of Cyrus in Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    V3_2,
    V3_6,
    V3_10,
    V3_12,
}

impl Release {
    /// Its number, which is also the value of `cyrus-release`.
    pub fn number(self) -> &'static str {
        match self {
            Self::V3_2 => "3.2",
            Self::V3_6 => "3.6",
            Self::V3_10 => "3.10",
            Self::V3_12 => "3.12",
        }
    }

    /// The suite of Debian with this release.
    pub fn suite(self) -> &'static str {
        match self {
            Self::V3_2 => "bullseye",
            Self::V3_6 => "bookworm",
            Self::V3_10 => "trixie",
            Self::V3_12 => "sid",
        }
    }
}

/// Mail server before the Murder. Debian permits only one to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailServer {
    Postfix,
    Sendmail,
    Exim,
    /// Postfix on a host that systemd boots.
    PostfixBySystemd,
}

impl MailServer {
    /// Its packages. `sendmail-cf` has the m4 files, `miltertest` plays the mail server's side of the
    /// milter protocol from a script. Exim's light daemon has no `dlfunc`.
    fn packages(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::PostfixBySystemd => "postfix,systemd",
            Self::Sendmail => "sendmail-bin,sendmail-cf,m4,miltertest",
            Self::Exim => "exim4-daemon-heavy,exim4-config",
        }
    }

    /// Programs that a run starts, and users that it runs as.
    fn needs(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Postfix => (&["usr/sbin/postfix"], &["postfix"]),
            Self::PostfixBySystemd => {
                (&["usr/sbin/postfix", "usr/lib/systemd/systemd"], &["postfix"])
            }
            Self::Sendmail => (
                &["usr/libexec/sendmail/sendmail", "usr/bin/m4", "usr/bin/miltertest"],
                &["smmta", "smmsp"],
            ),
            Self::Exim => (&["usr/sbin/exim4"], &["Debian-exim"]),
        }
    }
}

/// A private root: a release of Cyrus, and the mail server before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    pub release: Release,
    pub mail_server: MailServer,
}

impl Root {
    /// Every release with Postfix, one of them with each of the other servers, and two with systemd.
    pub const ALL: [Self; 8] = [
        Self::of(Release::V3_2, MailServer::Postfix),
        Self::of(Release::V3_6, MailServer::Postfix),
        Self::of(Release::V3_10, MailServer::Postfix),
        Self::of(Release::V3_12, MailServer::Postfix),
        Self::of(Release::V3_6, MailServer::Sendmail),
        Self::of(Release::V3_6, MailServer::Exim),
        Self::of(Release::V3_6, MailServer::PostfixBySystemd),
        Self::of(Release::V3_10, MailServer::PostfixBySystemd),
    ];

    /// The root for this release and mail server.
    pub const fn of(release: Release, mail_server: MailServer) -> Self {
        Self { release, mail_server }
    }

    /// Whether a word selects it: the release's number or suite, the mail server's name, or `systemd`.
    pub fn is_called(self, word: &str) -> bool {
        match self.mail_server {
            MailServer::Postfix => word == self.release.number() || word == self.release.suite(),
            MailServer::PostfixBySystemd => word == "systemd" || word == self.short_name(),
            MailServer::Sendmail | MailServer::Exim => word == self.short_name(),
        }
    }

    /// Short name, one word.
    pub fn short_name(self) -> &'static str {
        match (self.mail_server, self.release) {
            (MailServer::Postfix, release) => release.number(),
            (MailServer::Sendmail, _) => "sendmail",
            (MailServer::Exim, _) => "exim",
            (MailServer::PostfixBySystemd, Release::V3_2) => "systemd-247",
            (MailServer::PostfixBySystemd, Release::V3_6) => "systemd-252",
            (MailServer::PostfixBySystemd, Release::V3_10) => "systemd-257",
            (MailServer::PostfixBySystemd, Release::V3_12) => "systemd-sid",
        }
    }

    /// Name in the cache directory, with a number that is raised when the recipe below changes.
    fn directory(self) -> String {
        let suite = self.release.suite();
        match (self.mail_server, self.release) {
            (MailServer::Postfix, Release::V3_2 | Release::V3_6) => format!("{suite}-3"),
            (MailServer::Postfix, _) => format!("{suite}-2"),
            (MailServer::Sendmail | MailServer::Exim, _) => {
                format!("{suite}-{}-1", self.short_name())
            }
            (MailServer::PostfixBySystemd, _) => format!("{suite}-systemd-1"),
        }
    }

    /// The root in this cache directory.
    pub fn at(path: &Path) -> Done<Self> {
        let name = path.file_name().unwrap_or_default();
        let known = Self::ALL.into_iter().find(|root| *root.directory() == *name);
        known.ok_or_else(|| format!("{} is not one of our roots", path.display()).into())
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, suite) = (self.release.number(), self.release.suite());
        match self.mail_server {
            MailServer::Postfix => write!(f, "{number} ({suite})"),
            MailServer::Sendmail => write!(f, "Sendmail, {number} ({suite})"),
            MailServer::Exim => write!(f, "Exim, {number} ({suite})"),
            MailServer::PostfixBySystemd => write!(f, "systemd, {number} ({suite})"),
        }
    }
}

/// `busybox` enables the loopback interface of the run's network namespace.
const PACKAGES: &str = "cyrus-common,cyrus-imapd,cyrus-murder,cyrus-clients,cyrus-admin,\
                        sasl2-bin,libsasl2-modules,busybox";

/// In bullseye SCRAM is packaged with Kerberos, not with the other mechanisms. Its C library is older than
/// that of any build machine, and programs for that root are linked against it.
const MORE_FOR_3_2: &str = ",libsasl2-modules-gssapi-mit,libc6-dev";

/// `make bench` measures against tables of this kind.
const MORE_FOR_FIGURES: &str = ",postfix-lmdb";

/// Programs that a run starts or asks; a root without one of them is incomplete.
const PROGRAMS: [&str; 7] = [
    "usr/lib/cyrus/bin/master",
    "usr/lib/cyrus/bin/mupdate",
    "usr/lib/cyrus/bin/imapd",
    "usr/lib/cyrus/bin/lmtpd",
    "usr/lib/cyrus/bin/mupdatetest",
    "usr/sbin/saslpasswd2",
    "bin/busybox",
];

/// Archive of suites that have left Debian's mirrors.
const ARCHIVE: &str = "http://archive.debian.org/debian";

/// An unfinished root is discarded and rebuilt after a crash, so nothing waits for the disk. Manual pages
/// are not needed.
const DPKG: &str = "force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
";

/// These roots in the cache, in order. Missing ones are built first, which takes two or three minutes each
/// and needs the network; two are built at a time.
pub fn ensure_roots(roots: &[Root]) -> Vec<Done<PathBuf>> {
    let next = Mutex::new(roots.iter().enumerate());
    let done: Mutex<Vec<_>> = Mutex::new(roots.iter().map(|_| None).collect());
    let work = || {
        loop {
            let job = next.lock().ok().and_then(|mut next| next.next());
            let Some((nth, root)) = job else { return };
            let path = ensure_root(*root);
            if let Ok(mut done) = done.lock() {
                done[nth] = Some(path);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let done = done.into_inner().unwrap_or_default();
    done.into_iter().map(|path| path.unwrap_or_else(|| Err("it was not built".into()))).collect()
}

/// A root in the cache. Built first if it is missing.
pub fn ensure_root(root: Root) -> Done<PathBuf> {
    ensure!(geteuid().is_root(), "run as root: it needs namespaces and a private Debian root");
    let cache = std::env::var_os("MURDER_ROUTE_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/murder-route"), PathBuf::from);
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let cache = cache.canonicalize()?;
    let name = root.directory();
    let path = cache.join(&name);

    // Two runs must not build one root at once.
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if !path.exists() {
        // A root under its final name is complete: this rename is the only way to that name.
        let part = cache.join(format!("{name}.part"));
        let start = Instant::now();
        install_debootstrap(&cache)?;
        build(&part, root)?;
        fs::rename(&part, &path)?;
        println!("the root of {root} was built in {} s", start.elapsed().as_secs());
    }
    Ok(path)
}

fn lock(path: &Path) -> Done<Flock<fs::File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| format!("{}: {e}", path.display()))?)
}

fn install_debootstrap(cache: &Path) -> Done {
    // apt runs only once at a time; a second one fails.
    let _lock = lock(&cache.join("apt.lock"))?;
    if run(Command::new("sh").args(["-c", "command -v debootstrap"])).is_err() {
        println!("installing debootstrap");
        let install =
            || run(apt_get().args(["install", "-y", "--no-install-recommends", "debootstrap"]));
        // Package lists may be missing or old. One unreachable list is not fatal.
        if install().is_err() {
            let _ = run(apt_get().arg("update"));
            install()?;
        }
    }
    Ok(())
}

fn build(part: &Path, root: Root) -> Done {
    let mut mirrors = vec![mirror()];
    // Suites are moved to the archive when their support ends.
    if root.release == Release::V3_2 {
        mirrors.push(ARCHIVE.to_owned());
    }
    let mut failures = String::new();
    for mirror in mirrors {
        println!("building the root of {root} from {mirror}");
        match build_from(&mirror, part, root) {
            Ok(()) => return Ok(()),
            Err(e) => failures += &format!("{e}\n"),
        }
    }
    Err(failures.into())
}

fn build_from(mirror: &str, part: &Path, root: Root) -> Done {
    let Root { release, mail_server } = root;
    if part.exists() {
        fs::remove_dir_all(part).map_err(|e| format!("{}: {e}", part.display()))?;
    }
    // A package must not start its daemon at installation.
    let policy = part.join("usr/sbin/policy-rc.d");
    fs::create_dir_all(part.join("usr/sbin"))?;
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    run(Command::new("chmod").arg("755").arg(&policy))?;
    fs::create_dir_all(part.join("etc/dpkg/dpkg.cfg.d"))?;
    fs::write(part.join("etc/dpkg/dpkg.cfg.d/quick"), DPKG)?;

    let more = match (release, mail_server) {
        (Release::V3_2, _) => MORE_FOR_3_2,
        (Release::V3_6, MailServer::Postfix) => MORE_FOR_FIGURES,
        _ => "",
    };
    // It runs in its own namespaces, so that no mount or process outlives it. It gets a qualified host
    // name, without which Sendmail waits a minute at each step of its installation.
    let mut debootstrap = Command::new("unshare");
    debootstrap
        .args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", r#"hostname mx.murder.test && exec "$0" "$@""#])
        .args(["debootstrap", "--variant=minbase"])
        .arg(format!("--include={PACKAGES},{}{more}", mail_server.packages()))
        .arg(release.suite())
        .arg(part)
        .arg(mirror)
        .env("DEBIAN_FRONTEND", "noninteractive");
    // An older debootstrap does not know newer suites; their scripts are alike.
    let scripts = Path::new("/usr/share/debootstrap/scripts");
    if !scripts.join(release.suite()).exists() {
        debootstrap.arg(scripts.join("sid"));
    }
    let done = run(&mut debootstrap).map(drop);
    let complaint = match done {
        // In sid the setup of a package may fail although its programs work.
        Err(e) if release == Release::V3_12 => e.to_string(),
        done => {
            done?;
            String::new()
        }
    };
    // Checked here, where the root can still be rebuilt.
    let (programs, users) = mail_server.needs();
    for program in PROGRAMS.iter().chain(programs) {
        let there = part.join(program).exists();
        ensure!(there, "{program} is missing in {}: {complaint}", part.display());
    }
    let passwd = fs::read_to_string(part.join("etc/passwd"))?;
    for user in ["cyrus"].iter().chain(users) {
        let there = passwd.lines().any(|line| line.split(':').next() == Some(*user));
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

/// The Debian mirror of this host's apt, so that a site's own mirror is used.
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
