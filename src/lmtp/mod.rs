//! LMTP (RFC 2033) as its client speaks it before the first message, without I/O: lines in, lines out.
//!
//! [`Login`] takes a connection from the greeting through STARTTLS (RFC 3207) and AUTH (RFC 4954) to
//! the point where messages can be sent.

mod login;
mod reply;
pub mod reply_filter;

pub use login::{Failure, Login, Policy, Ready, Step};
pub use reply::{LINE_LIMIT, NotLmtp, Reader, Reply, auth_mechanisms, offers};
