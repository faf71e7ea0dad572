//! `codeseal complete` as a process.
