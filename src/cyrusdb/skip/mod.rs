//! The two formats that only grow: twoskip and twom.
//!
//! * [`node`], [`header`]: values read from a file. [`twoskip`], [`twom`]: the bytes of each format.
//!   [`format`](mod@format) chooses between the two.
//! * [`reader`]: one committed state, record by record; [`position`] finds where a key belongs.
//! * [`sparse_index`], [`position_cache`]: where to begin a search. [`find`] uses them.
//! * [`verify`]: reports everything wrong in a file.

pub mod find;
pub(crate) mod format;
pub mod header;
pub(crate) mod node;
pub mod position;
pub(crate) mod position_cache;
pub mod reader;
pub mod sparse_index;
pub(crate) mod twom;
pub(crate) mod twoskip;
pub mod verify;
pub mod window;
