//! The two formats that only grow: twoskip and twom.

pub(crate) mod node;
pub(crate) mod position_cache;
pub mod snapshot;
pub mod sparse_index;
pub(crate) mod twom;
pub(crate) mod twoskip;
