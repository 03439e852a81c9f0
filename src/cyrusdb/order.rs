//! Orders of the keys in a file.

use std::cmp::Ordering;

/// The order of the keys in a file. The file does not say which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Bytes as they are, the shorter first: twom always, twoskip from Cyrus 3.6, and up to 3.4
    /// unless `improved_mboxlist_sort` was on.
    Raw,
    /// `improved_mboxlist_sort` of Cyrus up to 3.4: tab and newline, then `.`, then the other
    /// bytes, so that the folders of a mailbox follow it directly (`lib/bsearch.c`).
    Mbox,
}

impl Order {
    /// Compares two keys.
    pub fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Order::Raw => a.cmp(b),
            Order::Mbox => a.iter().copied().map(rank).cmp(b.iter().copied().map(rank)),
        }
    }

    /// Returns the other order.
    pub fn other(self) -> Self {
        match self {
            Order::Raw => Order::Mbox,
            Order::Mbox => Order::Raw,
        }
    }
}

/// Returns the rank of a byte in [`Order::Mbox`].
fn rank(byte: u8) -> u8 {
    match byte {
        0 => 0,
        b'\t' | b'\n' => 1,
        b'.' => 2,
        1..=8 => byte + 2,
        _ => byte,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_follow_their_inbox_in_mbox_order_only() {
        let (inbox, folder, neighbour) =
            (&b"user.jane"[..], &b"user.jane.Sent"[..], &b"user.jane-x"[..]);
        assert!(Order::Mbox.compare(inbox, folder).is_lt());
        assert!(Order::Mbox.compare(folder, neighbour).is_lt());
        assert!(Order::Raw.compare(neighbour, folder).is_lt());
        for order in [Order::Raw, Order::Mbox] {
            assert!(order.compare(b"", b"a").is_lt());
            assert!(order.compare(b"a", b"a").is_eq());
        }
    }
}
