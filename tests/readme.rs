//! Parsing of the READMEs' steps. `make check-real` follows the steps themselves.

#[path = "common/readme.rs"]
#[allow(unreachable_pub, reason = "shared with another test binary")]
mod readme;

use readme::{Action, Unclear, steps};

fn only(text: &str) -> Action {
    let mut steps = steps(text).unwrap();
    assert_eq!(steps.len(), 1, "{steps:?}");
    steps.remove(0).action
}

fn why_not(text: &str) -> Unclear {
    steps(text).unwrap_err()
}

#[test]
fn script_is_run_without_the_indent_of_its_list() {
    let script = "1. Do it:\n\n   ```sh\n   for x in 1; do\n       echo $x\n   done\n\n   ```\n";
    assert_eq!(only(script), Action::Run("for x in 1; do\n    echo $x\ndone\n\n".into()));
}

#[test]
fn block_is_the_whole_file_named_last_before_it() {
    let text = "Take `/etc/passwd` for an example, and write\n`/etc/postfix/main.cf`:\n\n\
                ```\na = b\n  c\n```\n";
    let write = |path: &str, text: &str| Action::Write { path: path.into(), text: text.into() };
    assert_eq!(only(text), write("/etc/postfix/main.cf", "a = b\n  c\n"));
    let kind = "In `/etc/murder-route.toml`:\n```toml\nx = 1\n```";
    assert_eq!(only(kind), write("/etc/murder-route.toml", "x = 1\n"));
}

#[test]
fn the_word_add_appends_to_the_file() {
    let action = |before: &str| only(&format!("{before}\n```\nx\n```\n"));
    let added = Action::Add { path: "/f".into(), text: "x\n".into() };
    for before in ["Add to `/f`:", "To `/f`\nadd:"] {
        assert_eq!(action(before), added, "{before}");
    }
    let written = Action::Write { path: "/f".into(), text: "x\n".into() };
    for before in ["Addresses are in `/f`:", "`add` makes `/f`:", "1. Add that.\n2. Now `/f`:"] {
        assert_eq!(action(before), written, "{before}");
    }
}

#[test]
fn unclear_block_is_an_error() {
    let missing = "no paragraph that ends with a colon says which file this is";
    for (text, line, why) in [
        ("```\nx\n```\n", 1, missing),
        ("In `/f`.\n\n```\nx\n```\n", 3, missing),
        ("In `/f`:\n\n# Next\n\n```\nx\n```\n", 5, missing),
        ("In `/f`:\n\n```\nx\n```\n\n```\ny\n```\n", 7, missing),
        (
            "In `main.cf` or `/etc/`:\n```\nx\n```\n",
            2,
            "the paragraph before it names no file by its whole path",
        ),
        ("In `/f:\n```\nx\n```\n", 2, "the paragraph before it has a single backtick"),
        ("```sh\ntrue\n", 1, "the fence is never closed"),
        ("~~~\nx\n~~~\n", 1, "a fence is made of backticks here"),
    ] {
        assert_eq!(why_not(text), Unclear { line, why }, "{text}");
    }
}

#[test]
fn step_has_the_headings_above_it() {
    let text =
        "# All\n```sh\n1\n```\n## One\n### Deep\n```sh\n# no heading\n```\n## Two\n```sh\n3\n```\n";
    let found: Vec<_> = steps(text).unwrap().into_iter().map(|s| (s.headings, s.line)).collect();
    let headings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let wanted = [
        (headings(&["All"]), 2),
        (headings(&["All", "One", "Deep"]), 7),
        (headings(&["All", "Two"]), 11),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn indented_block_is_not_a_step() {
    assert_eq!(steps("It says:\n\n    $ true\n    # false\n"), Ok(vec![]));
}

#[test]
fn readmes_of_ready_configuration_can_be_followed() {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let path = entry.unwrap().path().join("README.md");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let path = path.display().to_string();
        let steps = steps(&text).unwrap_or_else(|e| panic!("{path}, {e}"));
        // The README of c-api/ has no steps.
        if !steps.is_empty() {
            found.push(path);
        }
    }
    for name in ["exim/README.md", "postfix/README.md", "sendmail/README.md"] {
        assert!(found.iter().any(|path| path.ends_with(name)), "no step in {name}: {found:?}");
    }
}

/// Both READMEs lead to one configuration.
#[test]
fn both_readmes_install_the_same_pieces() {
    let read = |path| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")));
    let commands = |path| -> Vec<String> {
        let text: String = read(path).unwrap();
        let lines =
            text.lines().map(|line| line.trim().replace("sudo murder-route", "murder-route"));
        lines.filter(|line| line.contains("murder-route postfix-config ")).collect()
    };
    let of_project = commands("README.md");
    let of_postfix = commands("postfix/README.md");
    assert!(of_project.len() > 4, "{of_project:?}");
    for command in &of_project {
        assert!(of_postfix.contains(command), "{command}: {of_postfix:?}");
    }
}
