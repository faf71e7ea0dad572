//! Drain on SIGTERM.
