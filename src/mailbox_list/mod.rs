//! Opens, follows and locks the real mailbox list.

mod file;
mod keys;
mod lock;
mod shrink;
mod view;

pub use file::{FileList, Options, Status};
