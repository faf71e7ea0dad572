//! Text to token ids and back, UTF-8 safe while streaming.
//!
//! Text never becomes a control token, whatever it holds: a user who writes `<|fim_middle|>` gets the letters.
//! That is made sure of three times: control tokens are flagged special and the encoder is told to read special
//! tokens as text; if a control id comes out all the same, the text is cut inside the piece that made it; and
//! if even that does not help, the text is refused.
//!
//! Allowed modules: model::FilesError, model::ModelFiles, secret, token.
//! Forbidden: axum, hyper, reqwest.

mod decoder;

use std::path::Path;
use std::sync::Arc;

use tokenizers::models::ModelWrapper;
use zeroize::Zeroize;

pub use self::decoder::Decoder;
use self::decoder::Pieces;
use crate::model::{FilesError, ModelFiles};
use crate::secret::Secret;
pub use crate::token::TokenId;

/// What Gemma's templates are made of: pad, eos, bos, the four fill-in-the-middle markers, the two turn markers; and unk,
/// which stands for no text either.
const CONTROL_IDS: [u32; 10] = [0, 1, 2, 3, 67, 68, 69, 70, 106, 107];
/// How often a text may be cut to keep control tokens out of it; a sane vocabulary needs none.
const MAX_CUTS: usize = 8;
/// The largest `tokenizer.json` that is read, in bytes; Gemma's is 17.5 MB.
const MAX_FILE_BYTES: u64 = 128 * 1024 * 1024;

/// Why a tokenizer cannot be loaded, or cannot read or write a text. Never holds any of the text.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is missing, too large, not readable, or not what its name says.
    #[error(transparent)]
    Read(#[from] FilesError),
    /// The file is not a `tokenizer.json`.
    #[error("tokenizer.json is malformed ({0}): download it again")]
    Malformed(#[source] tokenizers::Error),
    /// The file describes another kind of tokenizer than Gemma's.
    #[error("tokenizer.json is not of gemma's form: it needs a BPE model and byte fallback when decoding")]
    NotGemma,
    /// The text cannot be encoded.
    #[error("the text cannot be encoded with this vocabulary")]
    Encode,
    /// The id is not one of the vocabulary's.
    #[error("a token id is outside the vocabulary: use the tokenizer that belongs to the model")]
    UnknownToken,
}

/// A model's `tokenizer.json`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Arc<Pieces>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` of the model at `path`, a directory or a GGUF file.
    ///
    /// # Errors
    /// The file is missing, malformed, or not of Gemma's form.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(&ModelFiles::at(path))
    }

    /// Loads `tokenizer.json` from among `files`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_files(files: &ModelFiles) -> Result<Self, TokenizerError> {
        Self::from_json(&files.read("tokenizer.json", MAX_FILE_BYTES)?)
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// It is malformed, or not of Gemma's form.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(TokenizerError::Malformed)?;
        let ModelWrapper::BPE(bpe) = inner.get_model() else { return Err(TokenizerError::NotGemma) };
        // The cache would keep pieces of one employee's text in memory until another's happen to push them out.
        let mut model = bpe.clone();
        model.resize_cache(0);
        inner.with_model(model);
        let post_processor: Option<tokenizers::PostProcessorWrapper> = None;
        inner.with_post_processor(post_processor);
        inner.with_truncation(None).map_err(TokenizerError::Malformed)?.with_padding(None);
        let control: Vec<_> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(id, token)| CONTROL_IDS.contains(id) && !token.special)
            .map(|(_, token)| token.special(true))
            .collect();
        inner.add_special_tokens(control).map_err(TokenizerError::Malformed)?;
        inner.set_encode_special_tokens(true);
        let pieces = Arc::new(Pieces::new(&inner)?);
        Ok(Self { inner, pieces })
    }

    /// Encodes `text` and nothing but text: no `<bos>`, and never a control token, whatever the text holds.
    /// Time grows with the text: call it from where blocking is allowed.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] if the vocabulary has no way to write the text.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::new();
        match self.encode_into(text, MAX_CUTS, &mut ids) {
            Ok(()) => Ok(ids),
            Err(error) => {
                ids.zeroize();
                Err(error)
            }
        }
    }

    /// Decodes `ids` to text without special tokens. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] if an id is outside the vocabulary.
    pub fn decode(&self, ids: &[TokenId]) -> Result<Secret<String>, TokenizerError> {
        let mut decoder = self.decoder();
        let mut text = Secret::new(String::with_capacity(self.pieces.bytes_of(ids) + 3));
        for &id in ids {
            if let Some(part) = decoder.push(id)? {
                text.expose_mut().push_str(part.expose());
            }
        }
        if let Some(part) = decoder.finish() {
            text.expose_mut().push_str(part.expose());
        }
        Ok(text)
    }

    /// What `id` stands for; nothing for control tokens and for what is outside the vocabulary. It need not be whole
    /// characters.
    pub fn bytes(&self, id: TokenId) -> &[u8] {
        self.pieces.get(id).unwrap_or_default()
    }

    /// What the vocabulary calls `id`.
    pub fn name(&self, TokenId(id): TokenId) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a byte of the byte fallback, such as `<0x0A>`.
    pub fn is_byte(&self, id: TokenId) -> bool {
        self.name(id).is_some_and(|name| decoder::byte_of(&name).is_some())
    }

    /// A decoder for tokens that arrive one by one.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(Arc::clone(&self.pieces))
    }

    /// One more than the largest id: what the model's vocabulary must be at least.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    fn encode_into(&self, text: &str, cuts: usize, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|_| TokenizerError::Encode)?;
        if !encoding.get_ids().iter().any(|id| CONTROL_IDS.contains(id)) {
            ids.extend(encoding.get_ids().iter().copied().map(TokenId));
            return Ok(());
        }
        if cuts == 0 {
            return Err(TokenizerError::Encode);
        }
        // A piece that is cut inside its span cannot come out again: neither part holds all of it.
        let encoding = self.inner.encode(text, false).map_err(|_| TokenizerError::Encode)?;
        let mut start = 0;
        for (id, &(from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if !CONTROL_IDS.contains(id) {
                continue;
            }
            let cut = (from + 1..to).find(|&at| text.is_char_boundary(at)).ok_or(TokenizerError::Encode)?;
            let part = text.get(start..cut).ok_or(TokenizerError::Encode)?;
            self.encode_into(part, cuts - 1, ids)?;
            start = cut;
        }
        self.encode_into(text.get(start..).ok_or(TokenizerError::Encode)?, cuts - 1, ids)
    }
}

#[cfg(test)]
mod tests;
