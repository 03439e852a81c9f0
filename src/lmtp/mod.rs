//! The client side of LMTP (RFC 2033) up to the first message. Pure: lines in, lines out.
//!
//! [`LmtpLogin`] takes a connection from the greeting through STARTTLS (RFC 3207) and AUTH (RFC 4954) to
//! the point where messages can be sent.

mod login;
mod reply;
pub mod reply_filter;

pub use login::{LmtpFailure, LmtpLogin, LmtpPolicy, LmtpStep, Ready};
pub use reply::{LINE_LIMIT, LmtpReply, NotLmtp, ReplyReader, auth_mechanisms, offers};
