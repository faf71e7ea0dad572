//! The control tokens of CodeGemma's vocabulary.

use crate::token::TokenId;

/// Fills unused places; never generated.
pub const PAD: TokenId = TokenId(0);
/// The model's own end of a text.
pub const EOS: TokenId = TokenId(1);
/// Starts every prompt.
pub const BOS: TokenId = TokenId(2);
/// What has no token; never in a text, since every byte has one.
pub const UNK: TokenId = TokenId(3);
/// `<|fim_prefix|>`: what follows stands before the cursor.
pub const FIM_PREFIX: TokenId = TokenId(67);
/// `<|fim_middle|>`: what follows belongs at the cursor.
pub const FIM_MIDDLE: TokenId = TokenId(68);
/// `<|fim_suffix|>`: what follows stands after the cursor.
pub const FIM_SUFFIX: TokenId = TokenId(69);
/// `<|file_separator|>`: another file begins.
pub const FILE_SEPARATOR: TokenId = TokenId(70);
/// `<start_of_turn>`: the beginning of a message.
pub const START_OF_TURN: TokenId = TokenId(106);
/// `<end_of_turn>`: the end of a message.
pub const END_OF_TURN: TokenId = TokenId(107);

/// The tokens that end an answer, whatever the template: all control tokens, none of which is ever part of a text.
///
/// The model card lists the four infilling markers beside `<eos>`: without them a 2B model that has closed the gap
/// goes on with the next file of its training data. `<end_of_turn>` ends an answer of the instruction-tuned models, and
/// `<start_of_turn>` would begin the next message.
pub fn stop_ids() -> &'static [TokenId] {
    &[PAD, EOS, BOS, UNK, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FILE_SEPARATOR, START_OF_TURN, END_OF_TURN]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelFiles;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn every_token_without_text_ends_an_answer() {
        let tokenizer = Tokenizer::from_files(&ModelFiles::tiny()).unwrap();
        let ids = (0..tokenizer.vocab_size()).map(|id| TokenId(u32::try_from(id).unwrap()));
        let without_text: Vec<_> = ids.filter(|&id| tokenizer.bytes(id).is_empty()).collect();
        assert_eq!(without_text, stop_ids());
    }
}
