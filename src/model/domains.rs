//! Domains served.

use std::borrow::Cow;

use crate::model::shown::Shown;

/// A set of mail domains, or every domain.
///
/// Case-insensitive. Both forms of an internationalised domain are equal; the A-label (`xn--…`, RFC
/// 5890) is stored, as in the mail protocols and Cyrus' lists. A domain with a trailing dot is not
/// served, because `lmtpd` finds no mailbox in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Domains {
    every: bool,
    /// Sorted. Most sites have only a few.
    named: Vec<Box<[u8]>>,
}

/// Text that is not a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mail domain; write `example.org`, or `*` for every domain")]
pub struct BadDomain(String);

impl Domains {
    /// Parses the configured domains; `*` stands for every domain.
    pub fn new<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Result<Self, BadDomain> {
        let mut domains = Self::default();
        for word in words {
            let word = word.as_ref();
            if word == "*" {
                domains.every = true;
                continue;
            }
            let domain = word.strip_suffix('.').unwrap_or(word);
            let bad = || BadDomain(Shown(word).to_string());
            let odd = |c: char| c.is_whitespace() || c.is_control() || "@*!,;<>\"/".contains(c);
            if domain.is_empty() || domain.starts_with('.') || domain.contains(odd) {
                return Err(bad());
            }
            domains.named.push(a_labels(domain.as_bytes()).ok_or_else(bad)?.into_owned().into());
        }
        domains.named.sort_unstable();
        domains.named.dedup();
        Ok(domains)
    }

    /// Whether this domain, in the form of [`a_labels`], is served.
    pub fn contains(&self, domain: &[u8]) -> bool {
        self.every || self.named.binary_search_by(|named| (**named).cmp(domain)).is_ok()
    }

    /// Whether no domain is served, so that every recipient is foreign.
    pub fn is_empty(&self) -> bool {
        !self.every && self.named.is_empty()
    }

    /// Whether every domain is served.
    pub fn is_every(&self) -> bool {
        self.every
    }

    /// Returns the configured domains, sorted.
    pub fn names(&self) -> Vec<Cow<'_, str>> {
        self.named.iter().map(|name| String::from_utf8_lossy(name)).collect()
    }
}

/// Returns the domain in lower case and in ASCII: U-labels become A-labels by UTS 46, as in browsers
/// and Postfix. `None`: the text is neither ASCII nor a domain.
pub fn a_labels(domain: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !domain.is_ascii() {
        // This folds case and composes decomposed characters.
        let ascii = idna::domain_to_ascii_cow(domain, idna::AsciiDenyList::EMPTY).ok()?;
        return Some(Cow::Owned(ascii.as_bytes().to_ascii_lowercase()));
    }
    Some(match domain.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(domain.to_ascii_lowercase()),
        false => Cow::Borrowed(domain),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_is_case_insensitive_and_excludes_subdomains() {
        let domains = Domains::new(["Example.ORG", "example.net."]).unwrap();
        assert!(domains.contains(b"example.org"));
        assert!(!domains.contains(b"example.org."));
        assert!(domains.contains(b"example.net"));
        assert!(!domains.contains(b"sub.example.org"));
        assert!(!domains.contains(b""));
        assert!(Domains::new(["*"]).unwrap().contains(b"anything.example"));
        assert!(!Domains::new(Vec::<String>::new()).unwrap().contains(b"example.org"));
    }

    #[test]
    fn both_forms_of_an_internationalised_domain_match() {
        const A: &[u8] = b"xn--mnchen-3ya.example";
        for word in [
            "m\u{fc}nchen.example",
            "M\u{dc}NCHEN.Example.",
            "mu\u{308}nchen.example",
            "m\u{fc}nchen\u{3002}example",
            "XN--Mnchen-3ya.example",
        ] {
            let domains = Domains::new([word]).unwrap();
            assert_eq!(domains.names(), [String::from_utf8_lossy(A)], "{word}");
            for typed in
                ["m\u{fc}nchen.example", "MU\u{308}NCHEN.EXAMPLE", "xn--mnchen-3YA.example"]
            {
                let typed = a_labels(typed.as_bytes()).unwrap();
                assert!(domains.contains(&typed), "{word} {typed:?}");
            }
            assert!(!domains.contains(b"munchen.example"));
        }
        assert_eq!(a_labels("stra\u{df}e.de".as_bytes()).unwrap(), &b"xn--strae-oqa.de"[..]);
        // ASCII stays unchanged, even if no registry would accept it.
        for odd in ["a_b.example", "xn--a", "[127.0.0.1]", "-"] {
            assert_eq!(a_labels(odd.as_bytes()).unwrap(), odd.as_bytes());
        }
        for bad in [&b"\xff.example"[..], "\u{ad}".as_bytes(), "a\u{200e}b.example".as_bytes()] {
            let read = a_labels(bad);
            assert!(read.is_none() || read == Some(Cow::Borrowed(&b""[..])), "{read:?}");
        }
        assert!(Domains::new(["a\u{200e}b.example"]).is_err());
    }

    #[test]
    fn invalid_domain_is_refused() {
        for word in ["", ".", ".org", "a b", "jane@example.org", "*.org", "a\n"] {
            assert!(Domains::new([word]).is_err(), "{word:?}");
        }
    }
}
