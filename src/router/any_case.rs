//! The search for a mailbox whose name differs from a wanted one in the case of letters only.
//!
//! Postfix' smtpd folds an address to lower case before it asks a recipient table
//! (`smtpd_resolve.c:resolve_pagein`). Where names have case (shared folders, and users without
//! `lmtp_downcase_rcpt`), the wanted name is then perhaps not that of the mailbox.

use std::ops::ControlFlow;

use crate::mailbox::{Lookup, MailboxList, MailboxName, State};

/// Maximum number of prefixes the list is asked for. A name of `n` letters takes `2n`, and as many
/// again for each other spelling of its beginning that the list has.
const MAX_PROBES: usize = 4_000;

/// The mailboxes that are there and whose names equal `wanted` but for the case of letters.
///
/// Goes down the tree of spellings, and no further where the list has no name that begins so.
///
/// # Errors
///
/// Why the list cannot tell.
pub(super) fn other_cases(
    list: &dyn MailboxList,
    wanted: &MailboxName,
) -> Result<Vec<MailboxName>, String> {
    let bytes = wanted.as_bytes();
    let fixed = wanted.without_domain();
    let domain = bytes.len() - fixed.len();
    // `user.` is a word of Cyrus', and has no case.
    let word = if fixed.starts_with(b"user.") { domain..domain + b"user.".len() } else { 0..0 };
    let mut found = Vec::new();
    let mut probes = 0;
    let mut open: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(mut prefix) = open.pop() {
        while let Some(b) = bytes.get(prefix.len()) {
            if b.is_ascii_alphabetic() && !word.contains(&prefix.len()) {
                break;
            }
            prefix.push(*b);
        }
        let Some(letter) = bytes.get(prefix.len()) else {
            if let Ok(name) = MailboxName::new(prefix)
                && name != *wanted
                && is_there(list, &name)
            {
                found.push(name);
            }
            continue;
        };
        for letter in [letter.to_ascii_uppercase(), letter.to_ascii_lowercase()] {
            let longer = [&prefix[..], &[letter]].concat();
            probes += 1;
            if probes > MAX_PROBES {
                return Err("too many names that differ in case".into());
            }
            let mut any = false;
            list.each(&longer, &mut |_, _| {
                any = true;
                ControlFlow::Break(())
            })?;
            if any {
                open.push(longer);
            }
        }
    }
    Ok(found)
}

fn is_there(list: &dyn MailboxList, name: &MailboxName) -> bool {
    match list.lookup(name) {
        Lookup::Present(record) => !matches!(record.state, State::Deleted | State::Intermediate),
        Lookup::Absent => false,
        Lookup::Unsure(_) | Lookup::Busy => true,
    }
}
