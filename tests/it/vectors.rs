//! Fernet vectors from Python.
