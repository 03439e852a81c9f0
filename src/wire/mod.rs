//! The protocols in which mail servers ask, as bytes and values: no sockets, no clock.

pub mod endpoint;
mod framing;
pub mod line;
pub mod milter;
pub mod netstring;
pub mod policy;
pub mod protocol;
pub mod rcpt;
pub mod socketmap;
