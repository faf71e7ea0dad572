//! Text to token ids and back, UTF-8 safe while streaming.
//!
//! Must not touch: HTTP.
