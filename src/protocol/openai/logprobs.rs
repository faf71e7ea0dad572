//! Log probabilities of the tokens of an answer, in the two forms of OpenAI's API.
//!
//! Written by the server only, and not to be printed. Texts are borrowed from the vocabulary, so that no copy has to be wiped.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

/// The most alternatives that may be asked for with each token.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// What a request says of logprobs: a number of alternatives (completions), or whether they are wanted (chat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogprobsOption {
    /// Alternatives with each token, by number.
    Count(usize),
    /// With each token its own, and as many alternatives as `top_logprobs` says.
    Flag(bool),
}

/// `logprobs` of a choice of `/v1/completions`: four lists of the same length.
#[derive(Default, Serialize)]
pub struct CompletionLogprobs<'a> {
    /// What each token adds to the text: joined they are the text. The bytes of one character are added by the last of them.
    pub tokens: Vec<&'a str>,
    /// The natural logarithm of each token's probability.
    pub token_logprobs: Vec<f32>,
    /// The most likely tokens in its place (alternatives), as many as requested, each under a name of its own.
    pub top_logprobs: Vec<BTreeMap<Cow<'a, str>, f32>>,
    /// Where in the answer's text each token begins, in characters.
    pub text_offset: Vec<usize>,
}

/// `logprobs` of a choice of `/v1/chat/completions`.
#[derive(Serialize)]
pub struct ChatLogprobs<'a> {
    /// One for each token.
    pub content: Vec<ChatToken<'a>>,
}

/// A token and its alternatives.
#[derive(Serialize)]
pub struct ChatToken<'a> {
    /// The token itself.
    #[serde(flatten)]
    pub token: TokenLogprob<'a>,
    /// Alternatives, the most likely first.
    pub top_logprobs: Vec<TokenLogprob<'a>>,
}

/// A token and its log probability.
#[derive(Serialize)]
pub struct TokenLogprob<'a> {
    /// What it adds to the text; of an alternative what it stands for, or `bytes:\xe2\x82` where that is no text.
    pub token: Cow<'a, str>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// What it stands for, in UTF-8; none for a control token.
    pub bytes: Option<&'a [u8]>,
}
