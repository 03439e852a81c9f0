//! The decision for one recipient, and the form of its answers. No I/O, no clock.

pub mod confirm;
pub mod decision_line;
pub mod evidence;
pub mod inquiry;
pub mod maps;
pub mod route;
pub mod router;
