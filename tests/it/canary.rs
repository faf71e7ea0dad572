//! No prompt, key or token in any log, metric or error, at TRACE.
