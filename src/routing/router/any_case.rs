//! Searches for mailboxes whose names differ from a wanted name in the case of letters only.
//!
//! Postfix' smtpd folds an address to lower case before it asks a recipient table
//! (`smtpd_resolve.c:resolve_pagein`). Where names are case-sensitive (shared folders, and
//! users without `lmtp_downcase_rcpt`), the mailbox may have another name than the wanted one.

use std::ops::{ControlFlow, Range};

use crate::address::TargetKind;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::list::MailboxList;
use crate::model::name::MailboxName;

/// Maximum number of prefixes looked up in the list. A name of `n` letters takes `2n`, and as
/// many again for each other spelling of its prefix in the list.
const MAX_PROBES: usize = 4_000;

/// Returns the existing mailboxes whose names equal `wanted` except for the case of letters.
/// `user.` is Cyrus' prefix of INBOXes, and is case-sensitive there.
///
/// # Errors
///
/// If the list cannot tell.
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

/// Returns names like `wanted` whose first `length` bytes are spelled as in some mailbox name:
/// all existing spellings except the given one.
///
/// # Errors
///
/// If the list cannot tell.
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

/// Returns the name of a user's mailbox with another spelling of the prefix `user`, which makes
/// it a shared folder's. `None`: the name is no user's.
pub(super) fn not_a_users(name: &MailboxName) -> Option<MailboxName> {
    let local = name.without_domain().strip_prefix(b"user.")?;
    let domain = name.as_bytes().strip_suffix(name.without_domain())?;
    MailboxName::new([domain, b"User.", local].concat()).ok()
}

/// Returns the spellings of `wanted` that are prefixes of names in the list. Only its letters
/// outside `word` vary.
///
/// Descends the tree of spellings only where the list has a name with that prefix.
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
