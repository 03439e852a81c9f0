//! The shared library: built once for all roots, and installed as a package would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::root::Release;
use crate::sandbox::{self, ROOT, STATE};
use crate::{Done, run};

/// Path in the root.
pub const LIBRARY: &str = "/usr/lib/libmurder_route.so.0";

/// Builds the library for a release, by `make lib`; the first time takes a minute or two. The C library of
/// the oldest release is older than that of any build machine, so the library is linked against it.
fn build(release: Release) -> Done {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut make = Command::new("make");
    make.args(["-s", "lib", &format!("LIBRARY_TARGET={}", built(release).display())]);
    make.current_dir(env!("CARGO_MANIFEST_DIR"));
    if release == Release::V3_2 {
        make.arg(format!("LIBRARY_LINK={}", linked_in(Path::new(ROOT), &built(release))?));
        make.arg(format!("LIBRARY_BUILD={}", built(release).join("build").display()));
    }
    run(&mut make)?;
    DONE.store(true, Ordering::Relaxed);
    Ok(())
}

/// Linker arguments for the C library of a root. The linker scripts in the root have paths that are valid
/// only inside it, so others are written here.
fn linked_in(root: &Path, directory: &Path) -> Done<String> {
    let names = directory.join("link");
    fs::create_dir_all(&names)?;
    let find = |beginning: &str, end: &str| -> Done<PathBuf> {
        for machine in fs::read_dir(root.join("usr/lib"))? {
            let machine = machine?.path();
            if !machine.join("libc.so.6").exists() {
                continue;
            }
            for file in fs::read_dir(machine)? {
                let file = file?.path();
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with(beginning) && name.ends_with(end) {
                    return Ok(file);
                }
            }
        }
        Err(format!("no {beginning}…{end} in {}", root.display()).into())
    };
    let libc = [("libc.so", "6"), ("libc_nonshared", ".a"), ("ld-2.", ".so")];
    let libc: Vec<String> = libc
        .iter()
        .map(|(name, end)| find(name, end).map(|file| file.display().to_string()))
        .collect::<Done<_>>()?;
    fs::write(names.join("libc.so"), format!("GROUP ( {} )\n", libc.join(" ")))?;
    for name in ["libpthread.so", "libdl.so"] {
        let file = find(&format!("{name}."), "")?;
        fs::write(names.join(name), format!("INPUT ( {} )\n", file.display()))?;
    }
    let options = [&format!("-L{}", names.display()), "-lpthread", "-ldl"];
    Ok(options.map(|option| format!("-C link-arg={option}")).join(" "))
}

/// Directory into which [`build`] installs the library.
pub fn built(release: Release) -> PathBuf {
    let name = if release == Release::V3_2 { "library-3.2" } else { "library" };
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Installs the library into the root of the run.
pub fn install(release: Release) -> Done {
    make_install(release, "")
}

fn make_install(release: Release, postfix: &str) -> Done {
    build(release)?;
    let mut make = Command::new("make");
    make.args(["-s", "install-lib", "prefix=/usr", &format!("DESTDIR={ROOT}")]);
    make.arg(format!("LIBRARY_TARGET={}", built(release).display()));
    make.arg(format!("dynamicmapsdir={postfix}")).current_dir(env!("CARGO_MANIFEST_DIR"));
    run(&mut make).map(drop)
}

/// Compiles one of `c-api/tests` against the library that [`built`] names, and installs both where every
/// user of the run can read them. The program runs outside of the root.
pub fn program(release: Release, name: &str) -> Done<String> {
    build(release)?;
    let program = format!("{STATE}/{name}");
    let library = "libmurder_route.so.0";
    fs::copy(built(release).join(library), format!("{STATE}/{library}"))?;
    let mut compile = Command::new("cc");
    compile.args(["-std=c99", "-O2", "-pthread", "-Ic-api", "-o", &program]);
    compile.arg(format!("c-api/tests/{name}.c")).arg(format!("{STATE}/{library}"));
    compile.arg("-Wl,-rpath,$ORIGIN").current_dir(env!("CARGO_MANIFEST_DIR"));
    run(&mut compile)?;
    Ok(program)
}

/// Installs the library and registers it with Postfix.
pub fn install_for_postfix(release: Release) -> Done {
    // /etc/postfix, or /usr/share/postfix in sid.
    let directory = run(sandbox::command("postconf").args(["-h", "meta_directory"]))?;
    make_install(release, &format!("{}/dynamicmaps.cf.d", directory.trim_end()))
}
