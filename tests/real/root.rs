//! The private Debian root below the cache directory: made once, reused, never changed by a run.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::{Done, ensure, run};

/// The suite, and a number to raise when the recipe below changes.
const NAME: &str = "bookworm-1";
const SUITE: &str = "bookworm";

/// `busybox` brings the loopback interface of the run's network namespace up.
const PACKAGES: &str = "cyrus-common,cyrus-imapd,cyrus-murder,cyrus-clients,cyrus-admin,\
                        postfix,sasl2-bin,libsasl2-modules,busybox";

/// The cached root; built first, if there is none. Takes a minute or two then, and the network.
pub fn ensure_root() -> Done<PathBuf> {
    ensure!(geteuid().is_root(), "run as root: it takes namespaces and a Debian root of its own");
    let cache = std::env::var_os("MURDER_ROUTE_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/murder-route"), PathBuf::from);
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let cache = cache.canonicalize()?;
    let root = cache.join(NAME);

    // Two runs at once must not build the same root.
    let lock_path = cache.join(format!("{NAME}.lock"));
    let lock_file = OpenOptions::new().create(true).append(true).open(&lock_path)?;
    let _lock = Flock::lock(lock_file, FlockArg::LockExclusive)
        .map_err(|(_, e)| format!("{}: {e}", lock_path.display()))?;

    if !root.exists() {
        // Whatever stands under the final name is whole: it gets there by this rename only.
        let part = cache.join(format!("{NAME}.part"));
        build(&part)?;
        fs::rename(&part, &root)?;
    }
    Ok(root)
}

fn build(part: &Path) -> Done {
    if part.exists() {
        fs::remove_dir_all(part).map_err(|e| format!("{}: {e}", part.display()))?;
    }
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
    // A package must not start its daemon when it is installed.
    let policy = part.join("usr/sbin/policy-rc.d");
    fs::create_dir_all(part.join("usr/sbin"))?;
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    run(Command::new("chmod").arg("755").arg(&policy))?;

    let mirror = mirror();
    println!("building {} from {mirror}", part.display());
    // In namespaces of its own, so that neither a mount nor a process of it can outlive it.
    run(Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["debootstrap", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .arg(SUITE)
        .arg(part)
        .arg(mirror)
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    // What every program needed later comes with is checked here, where it can be built anew.
    for program in ["usr/lib/cyrus/bin/mupdate", "usr/sbin/postfix", "usr/sbin/saslpasswd2"] {
        ensure!(part.join(program).exists(), "{program} is missing in {}", part.display());
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
