//! Lines and includes (Cyrus `lib/libconfig.c`, `config_read_file`; unchanged since 2.3).
//!
//! ```text
//! key: value up to the end of the line, without quotes, escapes or comments
//! # a comment, if the line begins with it
//! key: a value that \
//!      continues, including the leading blanks
//! @include: /etc/imapd-local.conf
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::{ConfError, Position, Warning};

/// Maximum depth of includes.
const MAX_DEPTH: usize = 16;
/// Maximum size of all files together, in bytes.
pub(crate) const MAX_SIZE: usize = 4 * 1024 * 1024;

/// An option as set in one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfLine {
    /// Name, in lower case.
    pub(super) key: String,
    pub(super) value: String,
    /// Raw value, if it is not UTF-8.
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) place: Position,
}

/// Returns all lines of a file and its includes, in the order in which they take effect.
pub(super) fn parse(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<(Vec<ConfLine>, Vec<Warning>), ConfError> {
    let mut parser =
        Parser { read, seen: Vec::new(), left: MAX_SIZE, lines: Vec::new(), warnings: Vec::new() };
    parser.file(path, 0, &Position { file: path.to_owned(), line: None })?;
    Ok((parser.lines, parser.warnings))
}

struct Parser<'r> {
    read: &'r mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    seen: Vec<PathBuf>,
    left: usize,
    lines: Vec<ConfLine>,
    warnings: Vec<Warning>,
}

impl Parser<'_> {
    /// Reads one file. `from` is the position of its `@include`.
    fn file(&mut self, path: &Path, depth: usize, from: &Position) -> Result<(), ConfError> {
        let wrong = |what: String| Err(ConfError { place: from.clone(), what });
        // Compared as strings, as Cyrus does: `/etc/./x` is another file than `/etc/x`.
        if self.seen.iter().any(|seen| seen.as_os_str() == path.as_os_str()) {
            return wrong(format!("{} is included a second time", path.display()));
        }
        if depth > MAX_DEPTH {
            return wrong(format!("includes are nested more than {MAX_DEPTH} deep"));
        }
        self.seen.push(path.to_owned());
        let text = match (self.read)(path) {
            Ok(text) => text,
            // fopen(3) succeeds for a directory, and fgets(3) reads nothing from it.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::IsADirectory => {
                let what = format!("{} is a directory: nothing in it is read", path.display());
                self.warnings.push(Warning { place: from.clone(), what });
                return Ok(());
            }
            Err(error) => return wrong(format!("cannot read {}: {error}", path.display())),
        };
        match self.left.checked_sub(text.len()) {
            Some(left) => self.left = left,
            None => return wrong(format!("more than {MAX_SIZE} bytes of configuration")),
        }
        self.text(&text, path, depth)
    }

    fn text(&mut self, text: &[u8], path: &Path, depth: usize) -> Result<(), ConfError> {
        let mut joined = Vec::new();
        let mut first = None;
        for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1u32..) {
            let line_one = *first.get_or_insert(number);
            // C strings end at NUL, and a line that ends there is not continued.
            let (line, nul) = match memchr::memchr(0, line) {
                Some(end) => (&line[..end], true),
                None => (line, false),
            };
            if nul {
                let place = Position { file: path.to_owned(), line: Some(number) };
                let what = "a NUL byte: Cyrus reads the line up to that";
                self.warnings.push(Warning { place, what: what.into() });
            }
            // Only before LF: not at the end of the file, and not before CR LF.
            if let Some(begin) = line.strip_suffix(b"\\\n") {
                joined.extend_from_slice(begin);
                continue;
            }
            joined.extend_from_slice(line);
            self.line(&joined, Position { file: path.to_owned(), line: Some(line_one) }, depth)?;
            joined.clear();
            first = None;
        }
        if first.is_some() {
            let what = "the last line is continued by nothing: Cyrus ignores it".into();
            self.warnings
                .push(Warning { place: Position { file: path.to_owned(), line: first }, what });
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], place: Position, depth: usize) -> Result<(), ConfError> {
        let line = trim(line);
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        let wrong = |what: &str| Err(ConfError { place: place.clone(), what: what.into() });
        let end = line
            .iter()
            .skip(usize::from(line[0] == b'@'))
            .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')))
            .map_or(line.len(), |end| end + usize::from(line[0] == b'@'));
        let (key, rest) = line.split_at(end);
        let Some(value) = rest.strip_prefix(b":") else {
            return wrong(
                "not an option: a line is `name: value`, with the colon right behind the name",
            );
        };
        // The name has been checked to be ASCII.
        let key = String::from_utf8_lossy(key).to_ascii_lowercase();
        let value = trim(value);
        if value.is_empty() {
            return wrong(&format!("`{key}` has no value: leave the line out instead"));
        }
        let bytes = std::str::from_utf8(value).is_err().then(|| value.to_vec());
        // Passwords may have any bytes.
        if bytes.is_some() && !key.ends_with("_password") {
            let what = format!("the value of `{key}` is not UTF-8 and was changed");
            self.warnings.push(Warning { place: place.clone(), what });
        }
        let value = String::from_utf8_lossy(value).into_owned();
        match key.as_str() {
            "" => wrong("not an option: nothing before the colon"),
            "@include" => {
                let path = PathBuf::from(value);
                if path.is_relative() {
                    let what = "a relative path: Cyrus takes it from the directory it runs in";
                    self.warnings.push(Warning { place: place.clone(), what: what.into() });
                }
                self.file(&path, depth + 1, &place)
            }
            key if key.starts_with('@') => {
                wrong(&format!("`{key}` is unknown: there is only @include"))
            }
            _ => {
                self.lines.push(ConfLine { key, value, bytes, place });
                Ok(())
            }
        }
    }
}

/// Trims white space. C's `isspace` includes the vertical tab.
fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines as `key=value@place` with the warnings, or the error.
    fn read(files: &[(&str, &[u8])]) -> Result<(Vec<String>, Vec<String>), String> {
        let mut read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let (lines, warnings) =
            parse(Path::new(files[0].0), &mut read).map_err(|error| error.to_string())?;
        let lines = lines.iter().map(|line| format!("{}={}@{}", line.key, line.value, line.place));
        Ok((lines.collect(), warnings.iter().map(Warning::to_string).collect()))
    }

    fn lines(text: &str) -> Vec<String> {
        let (lines, warnings) = read(&[("i", text.as_bytes())]).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        lines
    }

    #[test]
    fn lines_are_parsed_as_by_cyrus() {
        for (text, expected) in [
            ("a: b\n", &["a=b@i:1"][..]),
            ("A-B_c:b", &["a-b_c=b@i:1"]),
            ("\n  \t\n# c\n  # c\n \tkey:\t v w \x0b\r\n", &["key=v w@i:5"]),
            ("a: b # no comment\n", &["a=b # no comment@i:1"]),
            ("a: \"b\"\n", &["a=\"b\"@i:1"]),
            ("a: b: c\n", &["a=b: c@i:1"]),
            ("a: b \\\n  c\nd: e\n", &["a=b   c@i:1", "d=e@i:3"]),
            ("a: b\\\n\\\nc\nd: e\n", &["a=bc@i:1", "d=e@i:4"]),
            ("a\\\n: b\n", &["a=b@i:1"]),
            // A comment that ends in a backslash continues on the next line.
            ("# c \\\na: b\nd: e\n", &["d=e@i:3"]),
            ("a: b\\", &["a=b\\@i:1"]),
            ("a: b\\\r\nc: d\n", &["a=b\\@i:1", "c=d@i:2"]),
            ("", &[]),
        ] {
            assert_eq!(lines(text), expected, "{text:?}");
        }
    }

    #[test]
    fn invalid_line_is_an_error_with_its_number() {
        for (text, error) in [
            (&b"a: b\nnonsense\n"[..], "i:2: not an option: a line is"),
            (b"a : b\n", "i:1: not an option: a line is"),
            (b"a.b: c\n", "i:1: not an option: a line is"),
            (b": c\n", "i:1: not an option: nothing"),
            (b"a: b\n\nc:\n", "i:3: `c` has no value"),
            (b"a:  \\\n  \n", "i:1: `a` has no value"),
            (b"@exclude: x\n", "i:1: `@exclude` is unknown"),
            (b"@: x\n", "i:1: `@` is unknown"),
            (b"@@include: x\n", "i:1: not an option"),
            (b"\xef\xbb\xbfa: b\n", "i:1: not an option"),
        ] {
            let found = read(&[("i", text)]).unwrap_err();
            assert!(found.starts_with(error), "{}: {found}", text.escape_ascii());
        }
    }

    #[test]
    fn text_that_cyrus_drops_or_changes_causes_a_warning() {
        let (lines, warnings) = read(&[("i", b"a: b\nc: d \\\n e\\\n")]).unwrap();
        assert_eq!(lines, ["a=b@i:1"]);
        assert_eq!(warnings, ["i:2: the last line is continued by nothing: Cyrus ignores it"]);

        // Measured with cyr_info 3.6.1.
        let (lines, warnings) =
            read(&[("i", b"\0\0a: x\na: b\0c\\\nd: e\\\n\0f\ng: h\0\n")]).unwrap();
        assert_eq!(lines, ["a=b@i:2", "d=e@i:3", "g=h@i:5"]);
        assert_eq!(warnings.len(), 4);
        assert_eq!(warnings[1], "i:2: a NUL byte: Cyrus reads the line up to that");

        let (_, warnings) = read(&[("i", b"mupdate_password: \xe9\n")]).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let (_, warnings) = read(&[("i", b"# \xe9 does not matter here\na: \xe9\n")]).unwrap();
        assert_eq!(warnings, ["i:2: the value of `a` is not UTF-8 and was changed"]);
    }

    #[test]
    fn includes_are_read_in_place() {
        let (lines, warnings) = read(&[
            ("/etc/i", b"a: 1\n@include: /etc/my conf\n@INCLUDE:rel\nd: 4\n"),
            ("/etc/my conf", b"b: 2\n"),
            ("rel", b"c: 3"),
        ])
        .unwrap();
        assert_eq!(lines, ["a=1@/etc/i:1", "b=2@/etc/my conf:1", "c=3@rel:1", "d=4@/etc/i:4"]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("/etc/i:3: a relative path"), "{warnings:?}");
    }

    #[test]
    fn invalid_include_is_an_error_at_its_line() {
        let error = read(&[("i", b"\n@include: /none\n")]).unwrap_err();
        assert!(error.starts_with("i:2: cannot read /none: "), "{error}");
        let error = read(&[("i", b"@include: i\n")]).unwrap_err();
        assert!(error.ends_with("i:1: i is included a second time"), "{error}");
        let twice = read(&[("i", b"@include: /j\n@include: /j\n"), ("/j", b"a: b\n")]).unwrap_err();
        assert_eq!(twice, "i:2: /j is included a second time");
        let error = read(&[("i", b"@include: /j\n"), ("/j", b"x\n")]).unwrap_err();
        assert!(error.starts_with("/j:1: not an option"), "{error}");
        assert!(read(&[("i", b"")]).is_ok());
    }

    #[test]
    fn included_directory_is_empty_and_causes_a_warning() {
        let mut read = |path: &Path| match path.to_str().unwrap() {
            "i" => Ok(b"@include: /etc\na: b\n".to_vec()),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        };
        let (lines, warnings) = parse(Path::new("i"), &mut read).unwrap();
        assert_eq!((lines.len(), warnings.len()), (1, 1));
        assert_eq!(warnings[0].to_string(), "i:1: /etc is a directory: nothing in it is read");
        assert!(parse(Path::new("/etc"), &mut read).is_err());
    }

    #[test]
    fn includes_are_compared_by_their_names() {
        let files: &[(&str, &[u8])] =
            &[("/etc/i", b"@include: /etc//j\n@include: /etc/j\n"), ("/etc/j", b"a: b\n")];
        assert_eq!(read(files).unwrap().0.len(), 2);
        let files: &[(&str, &[u8])] =
            &[("/etc/i", b"@include: /etc/j\n@include: /etc/j\n"), ("/etc/j", b"a: b\n")];
        assert_eq!(read(files).unwrap_err(), "/etc/i:2: /etc/j is included a second time");
    }

    #[test]
    fn endless_includes_are_an_error() {
        let mut number = 0;
        let error = parse(Path::new("/0"), &mut |_| {
            number += 1;
            Ok(format!("@include: /{number}\n").into_bytes())
        })
        .unwrap_err();
        assert!(error.to_string().contains("16 deep"), "{error}");

        let huge = vec![b'#'; MAX_SIZE + 1];
        let error = parse(Path::new("/0"), &mut |_| Ok(huge.clone())).unwrap_err();
        assert!(error.to_string().contains("bytes of configuration"), "{error}");
    }
}
