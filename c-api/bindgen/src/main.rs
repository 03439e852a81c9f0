//! Makes the Rust declarations of `murder_route.h`. Arguments: the header, and the file to write.
//! Needs libclang and its headers; `BINDGEN_EXTRA_CLANG_ARGS` may lead to those of gcc.

use std::env::args;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = args().skip(1).collect();
    let [header, written] = arguments.as_slice() else {
        eprintln!("usage: murder-route-bindgen HEADER OUTPUT");
        return ExitCode::FAILURE;
    };
    let made = bindgen::Builder::default()
        .header(header)
        .allowlist_file(".*/murder_route\\.h")
        .use_core()
        // As edition 2024 wants foreign blocks.
        .rust_target(bindgen::RustTarget::stable(85, 0).unwrap_or_default())
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::Prettyplease)
        .prepend_enum_name(false)
        // The comments are for who reads C.
        .generate_comments(false)
        .derive_debug(false)
        .raw_line("// Made by `make bindings` of c-api/murder_route.h: change that, not this.")
        .generate();
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            eprintln!("{header}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let text = with_a_later_member(&made.to_string());
    // Sizes and offsets are those of the machine this runs on, and of the header's release.
    let layout = "#[allow(clippy::unnecessary_operation, clippy::identity_op)]\n";
    let here = "#[cfg(all(target_pointer_width = \"64\", not(feature = \"capi-grown\")))]\n";
    let text = text.replace(layout, &format!("{here}{layout}"));
    match std::fs::write(written, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{written}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives each struct that a program allocates, which is each that begins with its size, one more member
/// at its end with the feature `capi-grown`: a library of a later release, for the tests.
fn with_a_later_member(made: &str) -> String {
    let mut text = String::new();
    let mut grows = false;
    for line in made.lines() {
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
