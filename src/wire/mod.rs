//! Protocols of the lookups of mail servers, as bytes and values. No sockets, no clock.

pub mod endpoint;
mod framing;
pub mod line;
pub mod map_name;
pub mod milter;
pub mod netstring;
pub mod policy;
pub mod protocol;
pub mod rcpt;
pub mod socketmap;
