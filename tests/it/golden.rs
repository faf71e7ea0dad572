//! Completions of the embedded model, pinned.
