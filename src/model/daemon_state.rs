//! States of the daemon as its status reports them.

/// Whether a daemon in this state routes known and refuses unknown recipients.
pub(crate) fn is_healthy(state: &str) -> bool {
    matches!(state, "fresh" | "file" | "connected")
}
