//! Builds the shared library as it ships, and programs in C against it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where Cargo and make build.
pub fn target() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").filter(|directory| !directory.is_empty());
    Path::new(ROOT).join(set.unwrap_or("target".into()))
}

/// Where the library is that ships.
pub fn library() -> PathBuf {
    make("capi", "lib")
}

/// Path of the library that panics at one recipient.
pub fn library_that_panics() -> PathBuf {
    make("capi-panic", "lib-panic")
}

/// Where the library is whose structs have grown, as those of a later release may.
pub fn library_that_has_grown() -> PathBuf {
    make("capi-grown", "lib-grown")
}

/// With the daemon's own features the library is another one, so it is built for itself.
fn make(features: &str, name: &str) -> PathBuf {
    let directory = target().join(name);
    static ONE_AT_A_TIME: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut made = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    if !made.contains(&directory) {
        let features = format!("LIBRARY_FEATURES={features}");
        let target = format!("LIBRARY_TARGET={}", directory.display());
        well(Command::new("make").args(["-s", "lib", &features, &target]).current_dir(ROOT));
        made.push(directory.clone());
    }
    directory
}

/// Compiles one of `c-api/tests`, with these options of the compiler, against the library in a
/// directory.
pub fn program(name: &str, compiler: &str, options: &[&str], library: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let directory = target().join("capi-tests");
    fs::create_dir_all(&directory).unwrap();
    let unique = format!(
        "{}-{}-{}",
        name.replace('/', "-"),
        std::process::id(),
        COUNT.fetch_add(1, Relaxed)
    );
    let output = directory.join(unique);
    let language = if compiler == "c++" { "c++" } else { "c" };
    let mut compile = Command::new(compiler);
    compile
        .args(["-x", language, "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-Ic-api"])
        .args(options)
        .arg(format!("c-api/tests/{name}.c"))
        .args(["-x", "none", "-lmurder_route", "-pthread", "-ldl", "-o"])
        .arg(&output)
        .arg(format!("-L{}", library.display()))
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .current_dir(ROOT);
    well(&mut compile);
    output
}

/// Runs a program, which must end well; what it said.
pub fn well(command: &mut Command) -> String {
    // A make that runs the tests has nothing to say to the makes in them.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Whether a program is there. If not, the test that wants it counts as left out.
pub fn is_there(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        crate::left_out::left_out(&format!("there is no {program} on this machine"));
    }
    there
}
