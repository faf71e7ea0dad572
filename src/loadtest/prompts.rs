//! Prompts: those of a file in turn, or generated code of about a given number of tokens.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::random::Random;
use crate::client::Prompt;
use crate::files;
use crate::secret::Secret;

/// The longest line of a file of prompts, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// The most prompts that are read.
const MAX_PROMPTS: usize = 100_000;

const VERBS: [&str; 8] = ["load", "parse", "merge", "count", "find", "write", "check", "build"];
const NOUNS: [&str; 12] = [
    "index", "path", "token", "value", "record", "buffer", "total", "limit", "result", "entry", "key", "size",
];

/// Where prompts come from.
#[derive(Clone, Debug)]
pub enum PromptSource {
    /// As a file has them, one JSON object a line, again from the beginning when they run out.
    File(std::path::PathBuf),
    /// Made up.
    Generated {
        /// How many tokens a prompt has, about.
        tokens: usize,
        /// How many of those are the same in every prompt.
        shared: usize,
    },
}

/// Why there are no prompts.
#[derive(Debug, thiserror::Error)]
pub enum PromptsError {
    /// The file cannot be read.
    #[error("cannot read the prompts: {0}")]
    Read(#[from] io::Error),
    /// A line is not what it must be.
    #[error("line {0} of the prompts is malformed: it must be a JSON object with prompt and perhaps suffix")]
    Malformed(usize),
    /// A line, or the file, is too long.
    #[error("the prompts are too long: a line has a megabyte at most, a file 100000 lines")]
    TooLong,
    /// There is none.
    #[error("there are no prompts in the file")]
    Empty,
}

/// Prompts by their number.
#[derive(Debug)]
pub(super) enum Prompts {
    Fixed(Vec<Prompt>),
    Generated { seed: u64, characters: usize, shared: usize },
}

#[derive(Deserialize)]
struct Line {
    #[serde(alias = "prefix")]
    prompt: String,
    suffix: Option<String>,
}

impl Prompts {
    /// Reads a file. Cases of `eval fim` can be used as they are.
    pub(super) fn read(path: &Path) -> Result<Self, PromptsError> {
        let file = files::open_argument(path).map_err(io::Error::from)?;
        let (mut prompts, lines) = (Vec::new(), BufReader::new(file));
        for (index, line) in lines.split(b'\n').enumerate() {
            let line = line?;
            if line.len() > MAX_LINE_BYTES || prompts.len() == MAX_PROMPTS {
                return Err(PromptsError::TooLong);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_slice(&line).map_err(|_| PromptsError::Malformed(index + 1))?;
            prompts.push(Prompt { prefix: Secret::new(line.prompt), suffix: line.suffix.map(Secret::new) });
        }
        if prompts.is_empty() { Err(PromptsError::Empty) } else { Ok(Self::Fixed(prompts)) }
    }

    /// Makes up prompts of `tokens`, the first `shared` of which they have in common, where a token is
    /// `characters_per_token` long on average.
    pub(super) fn generated(seed: u64, tokens: usize, shared: usize, characters_per_token: f64) -> Self {
        let characters = |tokens: usize| (tokens as f64 * characters_per_token).round() as usize;
        Self::Generated { seed, characters: characters(tokens), shared: characters(shared) }
    }

    /// The prompt number `index`.
    pub(super) fn prompt(&self, index: usize) -> Prompt {
        match self {
            Self::Fixed(prompts) => {
                let prompt = prompts.get(index % prompts.len().max(1));
                prompt.map_or_else(empty, |prompt| Prompt {
                    prefix: Secret::new(prompt.prefix.expose().clone()),
                    suffix: prompt.suffix.as_ref().map(|suffix| Secret::new(suffix.expose().clone())),
                })
            }
            Self::Generated { seed, characters, shared } => {
                let mut text = code(&mut Random::new(*seed, u64::MAX), *shared);
                let own = code(&mut Random::new(*seed, index as u64), characters.saturating_sub(*shared));
                text.push_str(&own);
                Prompt { prefix: Secret::new(text), suffix: None }
            }
        }
    }
}

fn empty() -> Prompt {
    Prompt { prefix: Secret::new(String::new()), suffix: None }
}

/// `characters` characters of generated Python. Each differs from all others from its first line on, so that two prompts share
/// only the part that is meant to be shared.
fn code(random: &mut Random, characters: usize) -> String {
    let mut text = String::with_capacity(characters + 128);
    while text.len() < characters {
        let mut pick = |words: &'static [&str]| words.get(random.below(words.len())).copied().unwrap_or("x");
        let (verb, noun, left, right) = (pick(&VERBS), pick(&NOUNS), pick(&NOUNS), pick(&NOUNS));
        let number = random.below(10_000);
        text.push_str(&format!(
            "def {verb}_{noun}_{number}({left}):\n    {right} = {left} + {number}\n    return {right}\n\n"
        ));
    }
    // Everything in it is ASCII, so any length ends at a character.
    text.truncate(characters);
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn text(prompts: &Prompts, index: usize) -> String {
        prompts.prompt(index).prefix.expose().clone()
    }

    #[test]
    fn made_up_prompts_share_what_they_are_meant_to_and_no_more() {
        let prompts = Prompts::generated(3, 100, 40, 2.5);
        let texts: Vec<String> = (0..50).map(|index| text(&prompts, index)).collect();
        for pair in texts.windows(2) {
            let [one, other] = pair else { unreachable!() };
            assert_eq!((one.len(), other.len()), (250, 250));
            assert_eq!(one.get(..100), other.get(..100));
            assert_ne!(one.get(100..140), other.get(100..140), "two prompts go on alike");
        }
        assert_eq!(text(&prompts, 7), text(&Prompts::generated(3, 100, 40, 2.5), 7));
        assert_ne!(text(&prompts, 7), text(&Prompts::generated(4, 100, 40, 2.5), 7));
    }

    #[test]
    fn the_prompts_of_a_file_come_in_turn() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let lines = [r#"{"prompt": "a"}"#, "", r#"{"prefix": "b", "suffix": "c", "name": "x"}"#];
        writeln!(file, "{}", lines.join("\n")).unwrap();
        let prompts = Prompts::read(file.path()).unwrap();
        assert_eq!([text(&prompts, 0), text(&prompts, 1), text(&prompts, 2)], ["a", "b", "a"]);
        assert_eq!(prompts.prompt(3).suffix.unwrap().expose(), "c");
    }

    #[test]
    fn a_line_that_is_no_prompt_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let lines = [r#"{"prompt": "a"}"#, r#"{"text": "b"}"#];
        writeln!(file, "{}", lines.join("\n")).unwrap();
        assert!(matches!(Prompts::read(file.path()), Err(PromptsError::Malformed(2))));
        std::fs::write(file.path(), "\n").unwrap();
        assert!(matches!(Prompts::read(file.path()), Err(PromptsError::Empty)));
    }
}
