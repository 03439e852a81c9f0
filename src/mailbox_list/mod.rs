//! Opens, follows and locks the real mailbox list.

mod file;
mod index_view;
mod keys;
pub mod kick;
pub mod lists;
mod lock;
pub mod map;
pub mod replica;
mod skip_view;
pub mod stored;
#[cfg(test)]
mod tests;
pub mod verify;
mod view;

pub use file::{FileList, Options, Status};
