//! The model against the expected values of the transformers library.
