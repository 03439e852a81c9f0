//! The declarations that `build.rs` generates with the feature `bindgen`.

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
