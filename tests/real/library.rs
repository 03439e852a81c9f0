//! The shared library: built once for all roots, and put where a package would put it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::root::Release;
use crate::sandbox::{self, in_root};
use crate::{Done, run};

/// Where it is in the root.
pub const LIBRARY: &str = "/usr/lib/libmurder_route.so.0";

/// Builds it for a release, by `make lib`; a minute or two at the first time. A root with the headers
/// of an older C library than this machine's is what it is linked against then.
pub fn build(release: Release, root: &Path) -> Done {
    let mut make = Command::new("make");
    make.args(["-s", "lib", &format!("LIBRARY_TARGET={}", built(release).display())]);
    make.current_dir(env!("CARGO_MANIFEST_DIR"));
    if release == Release::V3_2 {
        make.arg(format!("LIBRARY_SYSROOT={}", root.display()));
        make.arg(format!("LIBRARY_BUILD={}", built(release).join("build").display()));
    }
    run(&mut make).map(drop)
}

fn built(release: Release) -> PathBuf {
    let name = if release == Release::V3_2 { "library-3.2" } else { "library" };
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Puts it into the root of the run.
pub fn install(release: Release) -> Done {
    fs::copy(built(release).join("libmurder_route.so.0"), in_root(LIBRARY))?;
    // Postfix loads none that others than root might write to.
    fs::set_permissions(in_root(LIBRARY), Permissions::from_mode(0o644))?;
    Ok(())
}

/// And has Postfix load it, by the drop-in of the package.
pub fn install_for_postfix(release: Release) -> Done {
    install(release)?;
    // /etc/postfix, and in sid /usr/share/postfix.
    let directory = run(sandbox::command("postconf").args(["-h", "meta_directory"]))?;
    let directory = in_root(&format!("{}/dynamicmaps.cf.d", directory.trim_end()));
    let drop_in = include_str!("../../packaging/postfix/dynamicmaps.cf");
    fs::create_dir_all(&directory)?;
    Ok(fs::write(format!("{directory}/murder-route"), drop_in)?)
}
