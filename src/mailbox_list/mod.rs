//! Opens, follows and locks the real mailbox lists.
//!
//! * [`FileList`] is Cyrus' own `mailboxes.db`, read while Cyrus writes it; [`kick`] asks the MUPDATE
//!   slave that writes it whether it has caught up, and [`verify`] reads all of it for its faults.
//! * [`replica`] is ours, in LMDB; [`stored`] is how those see it who do not follow the master.
//! * [`lists::Lists`] makes one list of them, in the order of the configuration.
//!
//! All of them can be asked by any number of threads. Files are read through [`map`]s.

#[cfg(all(test, feature = "capi"))]
mod cut_tests;
mod elsewhere;
mod file;
pub(crate) mod foothold;
pub mod high_water;
mod index_view;
mod inspection;
mod keys;
pub mod kick;
pub mod lists;
pub(crate) mod lock;
pub mod map;
#[cfg(test)]
mod mended_tests;
pub mod replica;
mod skip_view;
pub mod stored;
#[cfg(test)]
mod tests;
pub mod user_deny;
pub mod verify;
pub(crate) mod view;
mod walk_past;

pub use file::{FileList, Options, Status};
pub use inspection::Inspection;
