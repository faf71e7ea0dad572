//! Token ids to text, one by one: a character is shown once all of its bytes are there.
//!
//! Does what Gemma's decoder (`▁` to a space, byte fallback, fuse) does, without looking back.

use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroize;

use super::{CONTROL_IDS, TokenId, TokenizerError};
use crate::secret::Secret;

/// How SentencePiece writes a space.
const SPACE: char = '\u{2581}';
/// The longest character of UTF-8, in bytes.
const MAX_CHAR_BYTES: usize = 4;

/// The bytes that each token stands for, one after another.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

/// Decodes tokens that arrive one by one.
pub struct Decoder {
    pieces: Arc<Pieces>,
    /// The beginning of a character whose other bytes are to come.
    pending: Vec<u8>,
}

impl Pieces {
    /// Lists the vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// [`TokenizerError::NotGemma`] if it is decoded in another way than Gemma's.
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let decoder = tokenizer.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok());
        if !decoder.as_ref().is_some_and(is_gemma) {
            return Err(TokenizerError::NotGemma);
        }
        let added = tokenizer.get_added_tokens_decoder();
        let vocab = tokenizer.get_vocab(true);
        let size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        // A vocabulary has gaps at most where a few tokens were taken out; do not let one id ask for gigabytes.
        if size > 2 * vocab.len() + 1024 {
            return Err(TokenizerError::NotGemma);
        }
        let mut tokens = vec![None; size];
        for (token, &id) in &vocab {
            if let Some(slot) = tokens.get_mut(id as usize) {
                *slot = Some(token);
            }
        }
        let mut pieces = Self { bytes: Vec::new(), ends: Vec::with_capacity(size) };
        for (id, token) in (0..).zip(tokens) {
            let special = CONTROL_IDS.contains(&id) || added.get(&id).is_some_and(|token| token.special);
            match token {
                Some(token) if !special => pieces.bytes.extend(bytes_of(token)),
                _ => {}
            }
            pieces.ends.push(u32::try_from(pieces.bytes.len()).map_err(|_| TokenizerError::NotGemma)?);
        }
        Ok(pieces)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The length of what `ids` stand for, as far as they are known.
    pub(super) fn bytes_of(&self, ids: &[TokenId]) -> usize {
        ids.iter().filter_map(|&id| self.get(id)).map(<[u8]>::len).sum()
    }

    pub(super) fn get(&self, TokenId(id): TokenId) -> Option<&[u8]> {
        let index = usize::try_from(id).ok()?;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start as usize..end as usize)
    }
}

impl Decoder {
    pub(super) fn new(pieces: Arc<Pieces>) -> Self {
        Self { pieces, pending: Vec::with_capacity(MAX_CHAR_BYTES) }
    }

    /// Takes the next token and returns the text that is complete by now, if any.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] if the id is outside the vocabulary.
    pub fn push(&mut self, id: TokenId) -> Result<Option<Secret<String>>, TokenizerError> {
        let piece = self.pieces.get(id).ok_or(TokenizerError::UnknownToken)?;
        let mut bytes = Secret::new(Vec::with_capacity(self.pending.len() + piece.len()));
        bytes.expose_mut().extend_from_slice(&self.pending);
        bytes.expose_mut().extend_from_slice(piece);
        self.pending.zeroize();
        let text = decode(bytes.expose(), &mut self.pending);
        Ok((!text.expose().is_empty()).then_some(text))
    }

    /// Ends the text: what is left of a character that never got its last byte, as U+FFFD.
    pub fn finish(self) -> Option<Secret<String>> {
        (!self.pending.is_empty()).then(|| Secret::new(String::from('\u{fffd}')))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.pending.zeroize();
    }
}

/// Decodes `bytes`, leaving in `pending` the beginning of a character that they end with.
fn decode(bytes: &[u8], pending: &mut Vec<u8>) -> Secret<String> {
    // Room for every byte to become a U+FFFD of three, so that the text never moves and leaves a copy behind.
    let mut text = Secret::new(String::with_capacity(3 * bytes.len()));
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.expose_mut().push_str(chunk.valid());
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        if chunks.peek().is_none() && is_beginning(invalid) {
            pending.extend_from_slice(invalid);
        } else {
            text.expose_mut().push('\u{fffd}');
        }
    }
    text
}

/// Whether more bytes could still make a character of `bytes`, the invalid end of a text.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The bytes of one token: `<0x0A>` is a byte, anything else is text.
fn bytes_of(token: &str) -> Vec<u8> {
    match byte_of(token) {
        Some(byte) => vec![byte],
        None => token.replace(SPACE, " ").into_bytes(),
    }
}

/// The byte that a token of the byte fallback is.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// Whether `decoder` is a sequence of exactly what Gemma's is made of.
fn is_gemma(decoder: &Value) -> bool {
    let steps = decoder.get("decoders").and_then(Value::as_array);
    let kinds = steps.into_iter().flatten().filter_map(|step| step.get("type")?.as_str());
    kinds.eq(["Replace", "ByteFallback", "Fuse"])
}
