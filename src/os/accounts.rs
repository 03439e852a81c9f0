//! Accounts of the system, by name or number.

use nix::unistd::{Gid, Group, Uid, User};

use crate::model::shown::Shown;

/// The numbers of a user and a group.
///
/// # Errors
///
/// If there is no such account, or the name service fails.
pub(crate) fn ids(
    owner: Option<&str>,
    group: Option<&str>,
) -> Result<(Option<u32>, Option<u32>), String> {
    Ok((owner.map(uid).transpose()?, group.map(gid).transpose()?))
}

fn uid(name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(Uid::as_raw(user.uid)),
        Ok(None) => Err(format!("there is no user `{}`", Shown(name))),
        Err(error) => Err(format!("cannot look the user `{}` up: {error}", Shown(name))),
    }
}

fn gid(name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(Gid::as_raw(group.gid)),
        Ok(None) => Err(format!("there is no group `{}`", Shown(name))),
        Err(error) => Err(format!("cannot look the group `{}` up: {error}", Shown(name))),
    }
}
