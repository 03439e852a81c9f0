//! Walks over the names of a replica, a piece at a time.

use std::path::Path;

use crate::model::doubt::{Doubt, DoubtKind, Doubtful};
use crate::model::list::{WalkStep, behind_all};
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::replica::store::value::{BadValue, Row};

/// Maximum number of records that a walk reads at once.
pub(crate) const PIECE: usize = 256;

/// A key with its decoded value.
pub(crate) type KeyedRow = (Vec<u8>, Result<Row, BadValue>);

/// Visits the names that `piece` returns, in their order. `piece` is called with the key after which
/// the next piece begins, until it returns none. Commits between two pieces may be seen or not. A
/// missing name is visited as a reserved one. `path` stands in errors.
pub(crate) fn walk(
    path: &Path,
    mut piece: impl FnMut(Option<&[u8]>) -> Result<Vec<KeyedRow>, Doubt>,
    visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
) -> Result<(), Doubt> {
    let path = path.display();
    let mut last: Option<Vec<u8>> = None;
    loop {
        let rows = piece(last.as_deref())?;
        if rows.is_empty() {
            return Ok(());
        }
        for (key, row) in rows {
            let name = MailboxName::new(key)
                .map_err(|bad| Doubt::new(DoubtKind::Damaged, format_args!("{path}: {bad}")))?;
            let row = row.map_err(|bad| {
                Doubt::new(bad.doubt_kind(), format_args!("{path}: record of {name}: {bad}"))
            })?;
            match visit(&name, &row.walked()) {
                WalkStep::Stop => return Ok(()),
                WalkStep::On => last = Some(name.as_bytes().to_vec()),
                WalkStep::Past(length) => {
                    last = Some(behind_all(name.as_bytes(), length));
                    break;
                }
            }
        }
    }
}
