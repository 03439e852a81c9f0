//! States of the daemon in its status.

/// Whether a daemon in this state routes known recipients and refuses unknown ones.
pub(crate) fn is_healthy(state: &str) -> bool {
    matches!(state, "fresh" | "file" | "connected")
}
