//! The cached view of one opened file.

use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::skip::window::Scratch;
use crate::model::name::KeyGeneration;
use crate::os::file_id::FileId;

use super::index_view::IndexView;
use super::skip_view::{KeyInView, SkipView};

/// State of a file that is kept between two lookups.
#[derive(Debug)]
pub(super) enum View {
    /// twoskip, twom: searched in the file, from a sparse index in memory.
    Skip(SkipView),
    /// skiplist, flat: all of it in memory.
    Index(IndexView),
}

impl View {
    pub(super) fn file_id(&self) -> FileId {
        match self {
            View::Skip(view) => view.file_id,
            View::Index(view) => view.file_id,
        }
    }

    /// Returns the generation of its keys; `None`: no key has shown it yet.
    pub(super) fn key_generation(&self) -> Option<KeyGeneration> {
        match self {
            View::Skip(view) => view.keys(),
            View::Index(view) => view.key_generation(),
        }
    }

    /// Returns the number of keys in the list, including those that are no mailboxes.
    pub(super) fn records(&self) -> u64 {
        match self {
            View::Skip(view) => view.header().records,
            View::Index(view) => view.records(),
        }
    }

    /// Returns a number that changes with every commit to this file.
    pub(super) fn state(&self) -> u64 {
        match self {
            View::Skip(view) => view.header().end,
            View::Index(view) => view.state(),
        }
    }

    /// Looks a key up and passes its value to `take`.
    pub(super) fn find<T>(
        &self,
        key: &[u8],
        scratch: &mut Scratch,
        take: impl Fn(&[u8]) -> T,
    ) -> Result<KeyInView<T>> {
        match self {
            View::Skip(view) => view.find(key, scratch, take),
            View::Index(view) => Ok(match view.find(key, take) {
                Some(found) => KeyInView::Found(found),
                None => KeyInView::Absent,
            }),
        }
    }

    /// Returns the damage, if a missing key may be due to it.
    pub(super) fn incomplete(&self) -> Option<Error> {
        match self {
            View::Skip(_) => None,
            View::Index(view) => view.incomplete(),
        }
    }
}
