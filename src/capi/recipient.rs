//! Checks of a recipient that need no rules.

/// Whether an unquoted address has a space where none can be: at its beginning, or before its domain. In a
/// mail server's internal form, spaces occur only within a local part.
pub(super) fn has_misplaced_space(recipient: &[u8]) -> bool {
    if !recipient.contains(&b' ') {
        return false;
    }
    let local = match recipient.iter().rposition(|byte| *byte == b'@') {
        Some(at) => recipient.get(..at).unwrap_or_default(),
        None => recipient,
    };
    local.first() == Some(&b' ') || local.last() == Some(&b' ')
}

/// Whether the canonical form of an address cannot differ from it, the case of its domain left aside. Most
/// addresses are like that and need no look at the rules.
pub(super) fn is_canonical_already(recipient: &[u8]) -> bool {
    let (mut ats, mut begins, mut plain) = (0, true, true);
    for byte in recipient {
        let ends = matches!(byte, b'.' | b'@');
        ats += u32::from(*byte == b'@');
        plain &= match ends {
            true => !begins,
            false => matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'+'),
        };
        begins = ends;
    }
    plain && !begins && ats == 1
}
