//! The protocols in which mail servers ask, as bytes and values: no sockets, no clock.

pub mod netstring;
pub mod rcpt;
pub mod socketmap;
