//! Link flags of the shared library, and with the feature `bindgen` its declarations.
//!
//! The SONAME follows `MR_ABI` in `c-api/murder_route.h`. The declarations of that header are committed
//! in `src/capi/bindings.rs`, so that a plain build needs no libclang. With the feature `bindgen` they are
//! generated anew and the crate is built with those; `make check-bindings` compares the two.

use std::env;
use std::error::Error;
use std::fs;

const HEADER: &str = "c-api/murder_route.h";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={HEADER}");
    let has = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    // The configuration that ships as a library. It has no programs that the flags could reach.
    if has("CAPI") && !has("DAEMON") {
        link_flags(&fs::read_to_string(HEADER)?)?;
    }
    #[cfg(feature = "bindgen")]
    bindings::generate(HEADER)?;
    Ok(())
}

/// Gives the shared library its SONAME and its flags. The manifest names no cdylib, since each ordinary
/// build would link one; so cargo would warn of `rustc-cdylib-link-arg`. The library must stay loaded (`nodelete`), since threads of the host may
/// still use what belongs to it. `relro` and `now` make its tables of addresses read-only once it is loaded.
fn link_flags(header: &str) -> Result<(), Box<dyn Error>> {
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    let abi = header.lines().find_map(|line| line.strip_prefix("#define MR_ABI "));
    let abi: u32 = abi.ok_or("no MR_ABI in the header")?.trim().parse()?;
    println!("cargo:rustc-link-arg=-Wl,-soname,libmurder_route.so.{abi}");
    println!("cargo:rustc-link-arg=-Wl,-z,nodelete,-z,relro,-z,now");
    Ok(())
}

#[cfg(feature = "bindgen")]
mod bindings {
    //! Needs libclang and its headers; `BINDGEN_EXTRA_CLANG_ARGS` may lead to those of gcc.

    use std::env;
    use std::error::Error;
    use std::fs;
    use std::path::Path;

    /// Writes `bindings.rs` into OUT_DIR, and a copy to where MURDER_ROUTE_BINDINGS says.
    pub(crate) fn generate(header: &str) -> Result<(), Box<dyn Error>> {
        let generated = bindgen::Builder::default()
            .header(header)
            .allowlist_file(".*/murder_route\\.h")
            .use_core()
            // Foreign blocks as edition 2024 wants them.
            .rust_target(bindgen::RustTarget::stable(85, 0).unwrap_or_default())
            .rust_edition(bindgen::RustEdition::Edition2024)
            .formatter(bindgen::Formatter::Prettyplease)
            .prepend_enum_name(false)
            // The comments are for readers of C.
            .generate_comments(false)
            .derive_debug(false)
            .raw_line("// Made by `make bindings` of c-api/murder_route.h: change that, not this.")
            .generate()?;
        let text = with_a_later_member(&generated.to_string());
        // Sizes and offsets are those of the machine this runs on, and of the header's release.
        let layout = "#[allow(clippy::unnecessary_operation, clippy::identity_op)]\n";
        let here = "#[cfg(all(target_pointer_width = \"64\", not(feature = \"capi-grown\")))]\n";
        let text = text.replace(layout, &format!("{here}{layout}"));
        fs::write(Path::new(&env::var("OUT_DIR")?).join("bindings.rs"), &text)?;
        println!("cargo:rerun-if-env-changed=MURDER_ROUTE_BINDINGS");
        if let Some(copy) = env::var_os("MURDER_ROUTE_BINDINGS") {
            println!("cargo:rerun-if-changed={}", copy.display());
            fs::write(copy, text)?;
        }
        Ok(())
    }

    /// Adds a last member to each struct that a program allocates, which is each that begins with its
    /// size, under the feature `capi-grown`: the library of a later release, for the tests.
    fn with_a_later_member(generated: &str) -> String {
        let mut text = String::new();
        let mut grows = false;
        for line in generated.lines() {
            grows |= line == "    pub size: usize,";
            if grows && line == "}" {
                text.push_str("    #[cfg(feature = \"capi-grown\")]\n    pub later: u64,\n");
                grows = false;
            }
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
