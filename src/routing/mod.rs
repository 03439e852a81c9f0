//! The decision for one recipient, and the form of its answers. No I/O, no clock.

pub mod confirm;
pub mod decision_line;
pub mod maps;
pub mod router;
