//! Token ids: what tokenizer, prompts, engine and model exchange.
//!
//! Allowed modules: none.

use zeroize::DefaultIsZeroes;

/// The index of a token in the model's vocabulary.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct TokenId(pub u32);

impl DefaultIsZeroes for TokenId {}
