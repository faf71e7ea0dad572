//! Command line and environment, parsed once into validated configuration.
//!
//! Must not touch: network, GPU. Nothing below this module reads the environment.
