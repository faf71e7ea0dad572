//! Sealed streams.
