//! Password files.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ConfigError;
use crate::model::secret::Secret;
use crate::os::regular_file;

/// Maximum size of a password file, in bytes.
const PASSWORD_LIMIT: u64 = 4096;

/// Reads a password: the whole file, without one line end that editors put at its end.
pub(super) fn read_password(path: &Path) -> Result<Secret, ConfigError> {
    let io = |source| ConfigError::Io { path: path.into(), source };
    let invalid = |text: String| ConfigError::File { path: path.into(), text };
    let file = regular_file::open(path).map_err(io)?;
    // Of the open file: the file at the path may have been exchanged since.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(invalid(format!(
            "mode {mode:04o} lets others read the password or lets the group write it; set mode 0640 or \
             0600"
        )));
    }
    let mut bytes = Vec::new();
    let read = file.take(PASSWORD_LIMIT + 1).read_to_end(&mut bytes).map_err(io)?;
    let password = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if read as u64 > PASSWORD_LIMIT {
        return Err(invalid(format!("password longer than {PASSWORD_LIMIT} bytes")));
    }
    if password.is_empty() || password.iter().any(|b| b"\n\r\0".contains(b)) {
        return Err(invalid("must hold the password in one line, and nothing else".into()));
    }
    Ok(Secret::new(password))
}
