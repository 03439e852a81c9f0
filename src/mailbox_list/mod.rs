//! Opens, follows and locks the real mailbox list.

mod file;
mod keys;
pub mod kick;
mod lock;
mod shrink;
pub mod verify;
mod view;

pub use file::{FileList, Options, Status};
