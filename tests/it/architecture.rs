//! Module boundaries, held by scanning `use` lines.
