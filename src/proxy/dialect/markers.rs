//! The fill-in-the-middle markers of the model families that editors know, turned back into prefix and suffix.
//!
//! A prompt is a hole only if it has exactly the structure of one; the same characters elsewhere stay text.

use super::{ContextFile, Hole};
use crate::secret::Secret;

/// The markers of one family.
struct Family {
    prefix: &'static str,
    suffix: &'static str,
    middle: &'static str,
    /// What begins another file, in front of the hole.
    files: &'static [&'static str],
    /// What begins the name of the repository, in front of the files.
    repository: &'static [&'static str],
    /// All of them, and what else of the family may follow a hole.
    all: &'static [&'static str],
}

const FAMILIES: &[Family] = &[
    // CodeGemma and Qwen.
    Family {
        prefix: "<|fim_prefix|>",
        suffix: "<|fim_suffix|>",
        middle: "<|fim_middle|>",
        files: &["<|file_separator|>", "<|file_sep|>"],
        repository: &["<|repo_name|>"],
        all: &[
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|fim_pad|>",
            "<|file_separator|>",
            "<|file_sep|>",
            "<|repo_name|>",
        ],
    },
    // The same as pydantic-ai escapes them: with a zero-width joiner.
    Family {
        prefix: "<\u{200d}|fim_prefix|>",
        suffix: "<\u{200d}|fim_suffix|>",
        middle: "<\u{200d}|fim_middle|>",
        files: &["<\u{200d}|file_separator|>", "<\u{200d}|file_sep|>"],
        repository: &["<\u{200d}|repo_name|>"],
        all: &[
            "<\u{200d}|fim_prefix|>",
            "<\u{200d}|fim_suffix|>",
            "<\u{200d}|fim_middle|>",
            "<|fim_middle|>",
        ],
    },
    // StarCoder and StableCode.
    Family {
        prefix: "<fim_prefix>",
        suffix: "<fim_suffix>",
        middle: "<fim_middle>",
        files: &["<file_sep>", "<filename>"],
        repository: &["<repo_name>", "<reponame>"],
        all: &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<file_sep>"],
    },
    // SantaCoder.
    Family {
        prefix: "<fim-prefix>",
        suffix: "<fim-suffix>",
        middle: "<fim-middle>",
        files: &[],
        repository: &[],
        all: &["<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"],
    },
    // DeepSeek.
    Family {
        prefix: "<｜fim▁begin｜>",
        suffix: "<｜fim▁hole｜>",
        middle: "<｜fim▁end｜>",
        files: &[],
        repository: &[],
        all: &["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    },
    // DeepSeek as it is written on keyboards.
    Family {
        prefix: "<|fim_begin|>",
        suffix: "<|fim_hole|>",
        middle: "<|fim_end|>",
        files: &[],
        repository: &[],
        all: &["<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"],
    },
    // CodeLlama: the spaces belong to the markers.
    Family {
        prefix: "<PRE> ",
        suffix: " <SUF>",
        middle: " <MID>",
        files: &[],
        repository: &[],
        all: &["<PRE>", "<SUF>", "<MID>", "<EOT>"],
    },
];

/// Codestral's: the suffix first, and no marker for the middle.
const CODESTRAL: [&str; 2] = ["[SUFFIX]", "[PREFIX]"];

/// What llama.vscode writes in front of snippets from other files.
const SNIPPETS: &str = "Context:\n\n";

/// What tokenizers write in front of a prompt, and some clients with them.
const BEGINNINGS: &[&str] = &["<bos>", "<s>", "<｜begin▁of▁sentence｜>"];

/// The hole that `prompt` describes, if it has the structure of one.
pub(super) fn hole(prompt: &str) -> Option<Hole> {
    let prompt = BEGINNINGS.iter().find_map(|bos| prompt.strip_prefix(bos)).unwrap_or(prompt);
    FAMILIES.iter().find_map(|family| family.hole(prompt)).or_else(|| codestral(prompt))
}

impl Family {
    fn hole(&self, prompt: &str) -> Option<Hole> {
        let body = prompt.trim_end_matches([' ', '\n', '\r', '\t']).strip_suffix(self.middle.trim_end())?;
        let (head, prefix, suffix) = self.prefix_first(body).or_else(|| self.suffix_first(body))?;
        let mut hole = Hole::new(secret(prefix), secret(suffix));
        hole.context = self.context(head)?;
        hole.path = self.own_path(head);
        hole.markers = self.all;
        Some(hole)
    }

    /// `PREFIX … SUFFIX …`: what stands in front, and the two halves.
    fn prefix_first<'a>(&self, body: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        let (head, rest) = body.split_once(self.prefix)?;
        let (prefix, suffix) = only(rest, self.suffix)?;
        Some((head, prefix, suffix))
    }

    /// `SUFFIX … PREFIX …`, the order that some models are trained with.
    fn suffix_first<'a>(&self, body: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        let (head, rest) = body.split_once(self.suffix)?;
        let (suffix, prefix) = only(rest, self.prefix)?;
        Some((head, prefix, suffix))
    }

    /// The name of the file that the hole is in: a header without text, right in front of it.
    fn own_path(&self, head: &str) -> Option<Secret<String>> {
        let separator =
            self.files.iter().filter_map(|separator| Some((head.rfind(separator)?, separator.len())));
        let (at, length) = separator.max()?;
        let name = head.get(at + length..)?.trim();
        (!name.is_empty() && !name.contains('\n')).then(|| secret(name))
    }

    /// The files in front of a hole; `None` if what stands there is something else.
    fn context(&self, head: &str) -> Option<Vec<ContextFile>> {
        if head.trim().is_empty() {
            return Some(Vec::new());
        }
        if let Some(snippets) = head.strip_prefix(SNIPPETS) {
            return Some(vec![ContextFile { path: Secret::default(), text: secret(snippets) }]);
        }
        let (first, separator) = self
            .files
            .iter()
            .filter_map(|separator| head.find(separator).map(|at| (at, *separator)))
            .min_by_key(|(at, _)| *at)?;
        let before = head.get(..first).unwrap_or_default();
        let named = self.repository.iter().any(|marker| before.starts_with(marker));
        let mut pieces: Vec<&str> = head.get(first..).unwrap_or_default().split(separator).collect();
        if !named && !before.trim().is_empty() {
            // CodeGemma's form has the separator behind each file.
            if let Some(piece) = pieces.first_mut() {
                *piece = before;
            }
        }
        Some(pieces.into_iter().filter_map(file).collect())
    }
}

/// The two sides of the one `marker` in `text`; `None` if there is none, or another one.
fn only<'a>(text: &'a str, marker: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(marker).filter(|(_, after)| !after.contains(marker))
}

fn codestral(prompt: &str) -> Option<Hole> {
    let [suffix_marker, prefix_marker] = CODESTRAL;
    let (suffix, prefix) = only(prompt.strip_prefix(suffix_marker)?, prefix_marker)?;
    if suffix.contains(suffix_marker) || prefix.contains(suffix_marker) {
        return None;
    }
    let mut hole = Hole::new(secret(prefix), secret(suffix));
    hole.markers = &["[SUFFIX]", "[PREFIX]", "[MIDDLE]"];
    Some(hole)
}

/// `PATH\nTEXT`; the header of the file that the hole is in has no text.
fn file(piece: &str) -> Option<ContextFile> {
    let (path, text) = piece.trim_start_matches('\n').split_once('\n')?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    (!text.trim().is_empty()).then(|| ContextFile { path: secret(path.trim()), text: secret(text) })
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}
