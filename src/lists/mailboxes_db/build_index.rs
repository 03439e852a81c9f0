//! Collects the sparse index during lookups, one piece for each lookup.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::cyrusdb::skip::sparse_index::{BuildProgress, IndexSize};
use crate::cyrusdb::skip::window::Scratch;

use super::FileList;
use super::view::View;

/// Number of index entries collected during one lookup: about a millisecond.
const PIECE: usize = 2048;

/// Number of lookups without an index before a small one is collected.
const SMALL_AFTER: u32 = 128;

impl FileList {
    /// Collects a piece of the index, if it is missing and no other thread collects.
    pub(super) fn collect(&self, view: &Arc<View>, scratch: &mut Scratch) {
        let View::Skip(skip) = &**view else { return };
        let lookups = self.lookups.load(Relaxed);
        if lookups < self.options.index_after {
            self.lookups.store(lookups + 1, Relaxed);
        }
        let size = match lookups {
            _ if lookups >= self.options.index_after => IndexSize::Large,
            SMALL_AFTER.. => IndexSize::Small,
            _ => return,
        };
        if !skip.wants_index(size) {
            return;
        }
        let Ok(mut work) = self.work.try_lock() else { return };
        if !self.is_cached(view) {
            return;
        }
        work.builder.take_if(|builder| builder.size() != size);
        let builder = work.builder.get_or_insert_with(|| skip.builder(size));
        match skip.collect(builder, PIECE, scratch) {
            Ok(BuildProgress::More | BuildProgress::OtherOrder) => {}
            Ok(BuildProgress::Done) => {
                if let Some(builder) = work.builder.take() {
                    let skip = skip.with_index(builder.into_index());
                    self.cache(Some(Arc::new(View::Skip(skip))));
                }
            }
            Err(_) => work.builder = None,
        }
    }

    /// Whether searches use an index of this size.
    #[cfg(test)]
    pub(super) fn has_index(&self, size: IndexSize) -> bool {
        let view = self.cached();
        matches!(view.as_deref(), Some(View::Skip(skip)) if !skip.wants_index(size))
    }
}
