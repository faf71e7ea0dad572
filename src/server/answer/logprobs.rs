//! Log probabilities, in both forms of OpenAI's API.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::generation::ScoredToken;
use crate::protocol::openai::{ChatLogprobs, ChatToken, CompletionLogprobs, TokenLogprob};
use crate::tokenizer::{TokenId, Tokenizer};

/// For `/v1/completions`.
pub(crate) fn completion<'a>(scored: &'a [ScoredToken], tokenizer: &'a Tokenizer) -> CompletionLogprobs<'a> {
    CompletionLogprobs {
        tokens: scored.iter().map(|token| token.text.expose().as_str()).collect(),
        token_logprobs: scored.iter().map(|token| token.logprobs.chosen).collect(),
        top_logprobs: scored.iter().map(|token| by_name(&token.logprobs.top, tokenizer)).collect(),
        text_offset: scored.iter().map(|token| token.offset).collect(),
    }
}

/// For `/v1/chat/completions`.
pub(crate) fn chat<'a>(scored: &'a [ScoredToken], tokenizer: &'a Tokenizer) -> ChatLogprobs<'a> {
    let likely = |&(id, logprob): &(TokenId, f32)| {
        let bytes = Some(tokenizer.bytes(id)).filter(|bytes| !bytes.is_empty());
        TokenLogprob { token: name(id, tokenizer), logprob, bytes }
    };
    let content = scored.iter().map(|token| ChatToken {
        token: TokenLogprob {
            token: Cow::Borrowed(token.text.expose()),
            logprob: token.logprobs.chosen,
            bytes: Some(bytes(token, tokenizer)),
        },
        top_logprobs: token.logprobs.top.iter().map(likely).collect(),
    });
    ChatLogprobs { content: content.collect() }
}

/// The bytes that a token adds: fewer than it has if a stop text begins within it.
fn bytes<'a>(token: &ScoredToken, tokenizer: &'a Tokenizer) -> &'a [u8] {
    let whole = tokenizer.bytes(token.id);
    let text = token.text.expose().as_bytes();
    match whole.get(..text.len()) {
        // A part of a character adds no text until the others are there, but it has bytes.
        Some(shown) if shown == text && std::str::from_utf8(whole).is_ok() => shown,
        _ => whole,
    }
}

/// The alternatives by name, where no two have the same. Of several with the same text only one is named by it: a text token
/// before a byte token, and the most likely first. The others are named by their bytes, or by their id.
fn by_name<'a>(alternatives: &[(TokenId, f32)], tokenizer: &'a Tokenizer) -> BTreeMap<Cow<'a, str>, f32> {
    let (single, texts): (Vec<_>, Vec<_>) = alternatives.iter().partition(|(id, _)| tokenizer.is_byte(*id));
    let mut named = BTreeMap::new();
    for (id, logprob) in texts.into_iter().chain(single) {
        let names = [name(id, tokenizer), Cow::Owned(escaped(tokenizer.bytes(id)))];
        let free = names.into_iter().find(|name| !named.contains_key(name));
        named.insert(free.unwrap_or_else(|| numbered(id)), logprob);
    }
    named
}

/// What a token is called: its text, its bytes where they are no text, or its name in the vocabulary where it has neither.
fn name(id: TokenId, tokenizer: &Tokenizer) -> Cow<'_, str> {
    let bytes = tokenizer.bytes(id);
    if bytes.is_empty() {
        return tokenizer.name(id).map_or_else(|| numbered(id), Cow::Owned);
    }
    std::str::from_utf8(bytes).map_or_else(|_| Cow::Owned(escaped(bytes)), Cow::Borrowed)
}

/// `bytes:\xe2\x82`, as OpenAI's API has it.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::from("bytes:");
    for byte in bytes {
        // Writing to a text cannot fail.
        write!(text, "\\x{byte:02x}").ok();
    }
    text
}

fn numbered<'a>(TokenId(id): TokenId) -> Cow<'a, str> {
    Cow::Owned(format!("token:{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Logprobs;
    use crate::model::ModelFiles;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_files(&ModelFiles::tiny()).unwrap()
    }

    /// The token of the embedded vocabulary that is this byte.
    fn byte(byte: u8) -> TokenId {
        TokenId(108 + u32::from(byte))
    }

    #[test]
    fn every_alternative_has_a_name_of_its_own() {
        let tokenizer = tokenizer();
        let [letter] = tokenizer.encode("a").unwrap()[..] else { panic!("one letter is one token") };
        let ids =
            [byte(0xe2), byte(0x82), byte(b'a'), letter, TokenId(0), TokenId(1), TokenId(107), TokenId(3)];
        let alternatives: Vec<_> = ids.iter().zip(1i16..).map(|(&id, rank)| (id, -f32::from(rank))).collect();
        let named = by_name(&alternatives, &tokenizer);
        assert_eq!(named.len(), ids.len());
        let expected = [
            ("bytes:\\xe2", -1.0),
            ("bytes:\\x82", -2.0),
            ("bytes:\\x61", -3.0),
            ("a", -4.0),
            ("<eos>", -6.0),
        ];
        for (name, logprob) in expected {
            assert_eq!(named.get(name), Some(&logprob), "{name}: {named:?}");
        }
        // All rows of the vocabulary at once.
        let all: Vec<_> = (0..tokenizer.vocab_size()).map(|id| (TokenId(id as u32), 0.0)).collect();
        assert_eq!(by_name(&all, &tokenizer).len(), all.len());
    }

    #[test]
    fn bytes_are_those_that_the_token_adds() {
        let tokenizer = tokenizer();
        let scored = |id, text: &str| ScoredToken {
            id,
            logprobs: Box::new(Logprobs { chosen: 0.0, top: vec![(byte(0xe2), -1.0), (TokenId(1), -2.0)] }),
            offset: 0,
            text: text.to_owned().into(),
        };
        let spaces = tokenizer.encode("    ").unwrap()[0];
        let tokens =
            [scored(byte(0xe2), ""), scored(byte(0x82), ""), scored(byte(0xac), "€"), scored(spaces, "  ")];
        let logprobs = chat(&tokens, &tokenizer);
        let bytes: Vec<_> = logprobs.content.iter().map(|token| token.token.bytes.unwrap()).collect();
        assert_eq!(bytes, [&[0xe2][..], &[0x82], &[0xac], b"  "]);
        let alternatives = serde_json::to_value(&logprobs.content[0].top_logprobs).unwrap();
        let expected = serde_json::json!([
            { "token": "bytes:\\xe2", "logprob": -1.0, "bytes": [0xe2] },
            { "token": "<eos>", "logprob": -2.0, "bytes": null },
        ]);
        assert_eq!(alternatives, expected);
        assert_eq!(completion(&tokens, &tokenizer).tokens.concat(), "€  ");
    }
}
