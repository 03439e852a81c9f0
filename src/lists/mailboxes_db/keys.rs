//! The generation of Cyrus that wrote the keys of a list. No record of the file names it.

use crate::model::name::KeyGeneration;

/// Returns the generation that one key shows, since a list is wholly of one generation. A list without
/// such a key has no user's mailbox: it is no mailbox list, or it has lost everything.
///
/// Keys of 3.6 and later separate by control characters, which no name up to 3.4 can hold; but a
/// top-level shared folder has a key without any. They begin with `N`, `I`, `A` or `J`, and so may
/// the names of folders up to 3.4. (Cyrus `imap/mboxlist.c`, `mboxlist_dbname_to_key` and around.)
pub(crate) fn generation_shown_by(key: &[u8]) -> Option<KeyGeneration> {
    if key.iter().any(|byte| (0x1d..=0x1f).contains(byte)) {
        return key.starts_with(b"N").then_some(KeyGeneration::Separated);
    }
    let internal = [&b"user."[..], b"DELETED."];
    let shown = internal.iter().any(|start| key.starts_with(start))
        || (key.contains(&b'!') && !matches!(key.first(), Some(b'N' | b'I' | b'A' | b'J')));
    shown.then_some(KeyGeneration::Internal)
}

/// Returns the prefixes of the keys of all names with `prefix`, in a list of this generation: one or two,
/// neither of them a prefix of the other. Keys of other names may have such a prefix too.
pub(crate) fn key_prefixes(generation: KeyGeneration, prefix: &[u8]) -> Vec<Vec<u8>> {
    if generation == KeyGeneration::Internal {
        return vec![prefix.to_vec()];
    }
    // The domain keeps its dots. Without a `!`, the prefix may be of a domain or of components.
    let (domain, local) = match memchr::memchr(b'!', prefix) {
        Some(at) => (&prefix[..at], &prefix[at..]),
        None => (&prefix[..0], prefix),
    };
    let mut key = vec![b'N'];
    key.extend_from_slice(domain);
    key.extend(local.iter().map(|byte| match byte {
        b'!' => 0x1d,
        b'.' => 0x1f,
        b'^' => b'.',
        byte => *byte,
    }));
    let of_a_domain = [b"N", prefix].concat();
    if domain.is_empty() && of_a_domain != key { vec![key, of_a_domain] } else { vec![key] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::MailboxName;
    use KeyGeneration::{Internal, Separated};

    #[test]
    fn only_a_key_of_one_generation_decides() {
        for (key, shown) in [
            (&b"Nuser\x1fjane"[..], Some(Separated)),
            (b"Nexample.org\x1duser\x1fbob", Some(Separated)),
            // Indexes of rights, which a list without a mailbox may have as well.
            (b"AS\x1e", None),
            (b"user.jane", Some(Internal)),
            (b"example.org!user.bob", Some(Internal)),
            (b"$RACL", None),
            (b"DELETED.user.old.5F000000", Some(Internal)),
            // A shared folder `News` of 3.4, or `ews` of 3.6.
            (b"News", None),
            (b"Nexample.org!user.bob", None),
            (b"I5e3c1a", None),
            (b"info", None),
        ] {
            assert_eq!(generation_shown_by(key), shown, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn key_of_a_name_begins_with_one_of_its_prefixes() {
        for name in ["user.jane^doe.Sent", "example.org!user.bob.a^b", "news.comp", "a"] {
            let whole = MailboxName::new(name).unwrap();
            for generation in [Internal, Separated] {
                let mut key = Vec::new();
                whole.push_key(generation, &mut key);
                for len in 0..=name.len() {
                    let prefixes = key_prefixes(generation, &name.as_bytes()[..len]);
                    let of = prefixes.iter().filter(|p| key.starts_with(p)).count();
                    assert_eq!(of, 1, "{generation:?} {name} {len}");
                }
            }
        }
    }
}
