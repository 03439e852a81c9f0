//! The file formats of `mailboxes.db`, read-only, over any [`source::ByteSource`].

pub mod error;
pub mod source;
