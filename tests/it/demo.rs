//! `codeseal demo` as a process.
