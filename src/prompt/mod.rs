//! CodeGemma's templates as token ids, budgets and stop texts: pure.
//!
//! A template is a list of ids, never a text that is encoded as a whole: what a user wrote goes through the
//! `encode` function alone, which yields no control id, and the control ids are put between the pieces here.
//!
//! Allowed modules: protocol, secret, token.
//! Forbidden: async, axum, std::fs, std::io, tokio.

mod budget;
mod chat;
pub mod control;
mod fim;
mod stops;
mod window;

pub use self::budget::fit;
pub use self::chat::{ChatError, chat};
pub use self::control::stop_ids;
pub use self::fim::{completion, infill, infill_within};
pub use self::stops::{SafeText, StopMatcher, Stops};
pub use self::window::{Texts, assemble};

use crate::protocol::openai::MAX_STOPS;

/// Why a request cannot become a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// A stop text without a character would end every answer at once.
    #[error("has an empty text: leave it out")]
    EmptyStop,
    /// The messages are no conversation that Gemma knows.
    #[error("must be from user and assistant in turn, from the user first and last, system texts before all")]
    Roles,
    /// The prompt and the tokens asked for do not fit the context.
    #[error(
        "the prompt and the new tokens asked for exceed the context of {limit} tokens: shorten one of them"
    )]
    TooLong {
        /// The model's context, in tokens.
        limit: usize,
    },
    /// More stop texts than are looked for.
    #[error("must have at most {MAX_STOPS} texts")]
    TooManyStops,
}
