//! Model sources against loopback servers.
