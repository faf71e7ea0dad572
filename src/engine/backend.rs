//! What the engine needs of a model.

use crate::model::{Model, ModelError, Sequence};
use crate::tokenizer::TokenId;

/// A model as the engine sees it: sequences that grow, and the logits of what comes next.
pub(super) trait Backend: Send + 'static {
    /// One text and what the model remembers of it.
    type Sequence;

    /// An empty sequence.
    fn begin(&self) -> Self::Sequence;

    /// Appends `tokens` to `sequence` and returns the logits of the token that follows, one for each of the vocabulary.
    ///
    /// # Errors
    /// A token is outside the vocabulary, the context is full, or the device failed.
    fn forward(&self, sequence: &mut Self::Sequence, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError>;

    /// The longest sequence, in tokens.
    fn context_length(&self) -> usize;

    /// The model's name.
    fn name(&self) -> &str;
}

impl Backend for Model {
    type Sequence = Sequence;

    fn begin(&self) -> Sequence {
        self.sequence()
    }

    fn forward(&self, sequence: &mut Sequence, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError> {
        sequence.forward(tokens)
    }

    fn context_length(&self) -> usize {
        Model::context_length(self)
    }

    fn name(&self) -> &str {
        Model::name(self)
    }
}
