//! Where models come from: `hf://`, `gs://` or a directory, each file held against the manifest.
//!
//! Must not touch: GPU, requests.
