//! Starts the parts on loopback for the other tests.
