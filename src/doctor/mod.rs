//! `murder-route doctor`: finds the faults of a deployment.
//!
//! * [`judge`] is pure: observations in, findings out.
//! * [`probe`] observes: it reads files, asks sockets, runs Postfix' commands, connects to backends and
//!   to the master.

pub mod judge;
pub(crate) mod probe;
