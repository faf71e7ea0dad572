//! The HTTP interface: sealed completions, chat, health, limits.
