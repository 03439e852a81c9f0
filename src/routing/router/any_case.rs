//! The search for a mailbox whose name differs from a wanted one in the case of letters only.
//!
//! Postfix' smtpd folds an address to lower case before it asks a recipient table
//! (`smtpd_resolve.c:resolve_pagein`). Where names have case (shared folders, and users without
//! `lmtp_downcase_rcpt`), the wanted name is then perhaps not that of the mailbox.

use std::ops::{ControlFlow, Range};

use crate::address::TargetKind;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::list::MailboxList;
use crate::model::name::MailboxName;

/// Maximum number of prefixes the list is asked for. A name of `n` letters takes `2n`, and as many
/// again for each other spelling of its beginning that the list has.
const MAX_PROBES: usize = 4_000;

/// The mailboxes that are there and whose names equal `wanted` but for the case of letters. `user.` is
/// the word of Cyrus' for INBOXes, and has no case there.
///
/// # Errors
///
/// Why the list cannot tell.
pub(super) fn other_cases(
    list: &dyn MailboxList,
    wanted: &MailboxName,
    kind: TargetKind,
) -> Result<Vec<MailboxName>, Doubt> {
    let bytes = wanted.as_bytes();
    let domain = bytes.len() - wanted.without_domain().len();
    let word = if kind == TargetKind::Inbox { domain..domain + b"user.".len() } else { 0..0 };
    let spelled = spellings(list, bytes, &word)?.into_iter();
    let names = spelled.filter_map(|name| MailboxName::new(name).ok());
    Ok(names.filter(|name| name != wanted && list.lookup(name).may_exist()).collect())
}

/// Names like `wanted` whose first bytes, so many, are spelled as those of some mailbox: all spellings
/// that there are but the one given.
///
/// # Errors
///
/// Why the list cannot tell.
pub(super) fn other_beginnings(
    list: &dyn MailboxList,
    wanted: &MailboxName,
    length: usize,
) -> Result<Vec<MailboxName>, Doubt> {
    let Some((beginning, rest)) = wanted.as_bytes().split_at_checked(length) else {
        return Ok(Vec::new());
    };
    let spelled = spellings(list, beginning, &(0..0))?.into_iter();
    let others = spelled.filter(|spelled| spelled != beginning);
    Ok(others.filter_map(|spelled| MailboxName::new([&spelled, rest].concat()).ok()).collect())
}

/// The name of a user's mailbox with another spelling of the word `user`, with which it is a shared
/// folder's. `None`: it is no user's.
pub(super) fn not_a_users(name: &MailboxName) -> Option<MailboxName> {
    let local = name.without_domain().strip_prefix(b"user.")?;
    let domain = name.as_bytes().strip_suffix(name.without_domain())?;
    MailboxName::new([domain, b"User.", local].concat()).ok()
}

/// The spellings of `wanted` with which names of the list begin, as far as its letters outside `word`
/// are concerned.
///
/// Goes down the tree of spellings, and no further where the list has no name that begins so.
fn spellings(
    list: &dyn MailboxList,
    wanted: &[u8],
    word: &Range<usize>,
) -> Result<Vec<Vec<u8>>, Doubt> {
    let mut found = Vec::new();
    let mut probes = 0;
    let mut open: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(mut prefix) = open.pop() {
        while let Some(b) = wanted.get(prefix.len()) {
            if b.is_ascii_alphabetic() && !word.contains(&prefix.len()) {
                break;
            }
            prefix.push(*b);
        }
        let Some(letter) = wanted.get(prefix.len()) else {
            found.push(prefix);
            continue;
        };
        for letter in [letter.to_ascii_uppercase(), letter.to_ascii_lowercase()] {
            let longer = [&prefix[..], &[letter]].concat();
            probes += 1;
            if probes > MAX_PROBES {
                let text = "too many names that differ in case";
                return Err(Doubt::new(DoubtKind::GivenUp, text));
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
