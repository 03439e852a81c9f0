//! What will be read in a moment.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the instruction has no safe form; this is the fence")
)]

/// Has the processor bring the first bytes near, where it can; nobody waits for that.
#[inline]
pub(super) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for byte in bytes.first().into_iter().chain(bytes.get(LINE)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86_64 has the instruction, it reads nothing that can be seen, and does not
        // even fault where there is no memory; here there is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Of the processor's caches, in bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
