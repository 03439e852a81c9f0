//! The domains we answer for.

use std::borrow::Cow;

/// A set of mail domains, or every domain.
///
/// Compared without regard to ASCII case. An internationalised domain is compared as it is written:
/// list both forms if the mail server uses both. A domain with a trailing dot is none of ours, for
/// `lmtpd` finds no mailbox in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Domains {
    every: bool,
    /// Sorted. Most sites have a few.
    named: Vec<Box<[u8]>>,
}

/// Why a word cannot be one of the domains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mail domain: write `example.org`, or `*` for every domain")]
pub struct BadDomain(String);

impl Domains {
    /// Reads the domains as they are configured; `*` stands for every domain.
    pub fn new<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Result<Self, BadDomain> {
        let mut domains = Self::default();
        for word in words {
            let word = word.as_ref();
            if word == "*" {
                domains.every = true;
                continue;
            }
            let domain = word.strip_suffix('.').unwrap_or(word);
            let odd = |c: char| c.is_whitespace() || c.is_control() || "@*!,;<>\"/".contains(c);
            if domain.is_empty() || domain.starts_with('.') || domain.contains(odd) {
                return Err(BadDomain(word.escape_default().to_string()));
            }
            domains.named.push(domain.to_ascii_lowercase().into_bytes().into());
        }
        domains.named.sort_unstable();
        domains.named.dedup();
        Ok(domains)
    }

    /// Whether this domain, already in lower case, is one of ours.
    pub fn contains(&self, domain: &[u8]) -> bool {
        self.every || self.named.binary_search_by(|named| (**named).cmp(domain)).is_ok()
    }

    /// Whether no domain at all is ours, so that every recipient is foreign.
    pub fn is_empty(&self) -> bool {
        !self.every && self.named.is_empty()
    }

    /// Whether every domain is ours.
    pub fn is_every(&self) -> bool {
        self.every
    }

    /// The domains that were named, sorted.
    pub fn names(&self) -> Vec<Cow<'_, str>> {
        self.named.iter().map(|name| String::from_utf8_lossy(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_ours_in_any_case_and_its_subdomain_is_not() {
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
    fn a_word_that_is_no_domain_is_refused() {
        for word in ["", ".", ".org", "a b", "jane@example.org", "*.org", "a\n"] {
            assert!(Domains::new([word]).is_err(), "{word:?}");
        }
    }
}
