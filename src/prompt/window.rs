//! A prompt from its parts, cut to what the context holds: other files, what stands before and after the cursor, and the
//! beginning of the hole.
//!
//! What is cut is cut at line ends, so that the model sees whole lines and a prompt keeps its beginning while the
//! cursor's line grows.

use zeroize::Zeroizing;

use super::control::{BOS, FILE_SEPARATOR, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX};
use super::fim::END_OF_FILE;
use crate::protocol::openai::ContextFile;
use crate::token::TokenId;

/// The suffix gets at least one part in this many of the room.
const SUFFIX_SHARE: usize = 4;

/// The parts of a prompt. No `Debug`: they are borrowed out of their secrets.
pub struct Texts<'a> {
    /// Other files, in their order.
    pub context: &'a [ContextFile],
    /// Text to continue, or what stands before the hole.
    pub prefix: &'a str,
    /// What stands after the hole; without, there is none.
    pub suffix: Option<&'a str>,
    /// What the hole begins with.
    pub middle: &'a str,
}

/// `<bos>`, then `path\ntext<|file_separator|>` for each file, then the prefix, or
/// `<|fim_prefix|>`prefix`<|fim_suffix|>`suffix`<|fim_middle|>`middle.
///
/// With `room`, a prompt of more tokens is cut: prefix and suffix to the lines nearest to the cursor, as
/// [`infill_within`](super::infill_within) shares the room between them; of a single line that is too long, to the
/// tokens nearest to the cursor. Files go into what is left, whole ones, the last ones first. The control tokens and the
/// middle are there even if there is no room for them.
///
/// # Errors
/// Those of `encode`.
pub fn assemble<E>(
    encode: impl Fn(&str) -> Result<Vec<TokenId>, E>,
    texts: &Texts<'_>,
    room: Option<usize>,
) -> Result<Vec<TokenId>, E> {
    let suffix = texts.suffix.map(|suffix| if suffix.is_empty() { END_OF_FILE } else { suffix });
    let middle = encode(texts.middle)?;
    let (mut before, mut after) = (encode(texts.prefix)?, encode(suffix.unwrap_or_default())?);
    let mut files = texts.context.iter().map(|file| encode(&written(file))).collect::<Result<Vec<_>, _>>()?;
    if let Some(room) = room {
        let markers = if suffix.is_some() { 4 } else { 1 };
        let room = room.saturating_sub(markers + middle.len());
        if before.len() + after.len() > room {
            (before, after) = cut(&encode, texts.prefix, suffix.unwrap_or_default(), room)?;
        }
        keep_what_fits(&mut files, room.saturating_sub(before.len() + after.len()));
    }

    let mut ids = vec![BOS];
    for file in &files {
        ids.extend(file);
        ids.push(FILE_SEPARATOR);
    }
    if suffix.is_some() {
        ids.push(FIM_PREFIX);
        ids.extend(&before);
        ids.push(FIM_SUFFIX);
        ids.extend(&after);
        ids.push(FIM_MIDDLE);
        ids.extend(&middle);
    } else {
        ids.extend(&before);
    }
    Ok(ids)
}

/// Path and text as one piece: a line end may merge with what follows it.
fn written(file: &ContextFile) -> Zeroizing<String> {
    let (path, text) = (file.path.expose(), file.text.expose());
    // The final capacity at once: growing would leave unwiped copies behind.
    let mut written = Zeroizing::new(String::with_capacity(path.len() + 1 + text.len()));
    written.push_str(path);
    written.push('\n');
    written.push_str(text);
    written
}

/// Drops files, each with its separator, that do not fit; the last ones are asked first.
fn keep_what_fits(files: &mut Vec<Vec<TokenId>>, mut room: usize) {
    let mut kept: Vec<bool> = Vec::with_capacity(files.len());
    for file in files.iter().rev() {
        let left = room.checked_sub(file.len() + 1);
        kept.push(left.is_some());
        room = left.unwrap_or(room);
    }
    let mut kept = kept.into_iter().rev();
    files.retain(|_| kept.next().unwrap_or(false));
}

/// The lines of both sides that are nearest to the cursor, in at most `room` tokens.
fn cut<E>(
    encode: &impl Fn(&str) -> Result<Vec<TokenId>, E>,
    prefix: &str,
    suffix: &str,
    room: usize,
) -> Result<(Vec<TokenId>, Vec<TokenId>), E> {
    let before = measure(encode, prefix.split_inclusive('\n').rev(), room)?;
    let after = measure(encode, suffix.split_inclusive('\n'), room)?;
    let total = |lines: &[Line]| lines.iter().map(|line| line.tokens).sum::<usize>();
    let for_suffix = total(&after).min((room / SUFFIX_SHARE).max(room.saturating_sub(total(&before))));

    let beginning = |bytes| suffix.get(..bytes).unwrap_or_default();
    let mut after = fit(encode, &after, beginning, for_suffix)?;
    after.truncate(for_suffix);
    // What the suffix leaves is the prefix's.
    let for_prefix = room - after.len();
    let end = |bytes| prefix.len().checked_sub(bytes).and_then(|at| prefix.get(at..)).unwrap_or_default();
    let mut before = fit(encode, &before, end, for_prefix)?;
    before.drain(..before.len().saturating_sub(for_prefix));
    Ok((before, after))
}

/// A line with its end.
struct Line {
    bytes: usize,
    tokens: usize,
}

/// The lines that come first, each encoded alone, until they have more than `room` tokens: what is further away is not
/// looked at.
fn measure<'a, E>(
    encode: &impl Fn(&str) -> Result<Vec<TokenId>, E>,
    lines: impl Iterator<Item = &'a str>,
    room: usize,
) -> Result<Vec<Line>, E> {
    let (mut measured, mut total) = (Vec::new(), 0);
    for line in lines {
        let tokens = encode(line)?.len();
        measured.push(Line { bytes: line.len(), tokens });
        total += tokens;
        if total > room {
            break;
        }
    }
    Ok(measured)
}

/// The tokens of as many of `lines` as fit into `room`. The first line stays even if it does not.
///
/// Lines may have more tokens together than alone, so the tokens of all together decide.
fn fit<'a, E>(
    encode: &impl Fn(&str) -> Result<Vec<TokenId>, E>,
    lines: &[Line],
    text: impl Fn(usize) -> &'a str,
    room: usize,
) -> Result<Vec<TokenId>, E> {
    let mut tokens = 0;
    let fitting = lines.iter().take_while(|line| {
        tokens += line.tokens;
        tokens <= room
    });
    let mut count = fitting.count().max(1);
    loop {
        let bytes = lines.iter().take(count).map(|line| line.bytes).sum();
        let ids = encode(text(bytes))?;
        if ids.len() <= room || count <= 1 {
            return Ok(ids);
        }
        count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// One id per byte, far above the control tokens; two line ends are one token, as in Gemma's vocabulary.
    fn encode(text: &str) -> Result<Vec<TokenId>, Infallible> {
        let text = text.replace("\n\n", "\u{1}");
        Ok(text.bytes().map(|byte| TokenId(1000 + u32::from(byte))).collect())
    }

    fn files(files: &[(&str, &str)]) -> Vec<ContextFile> {
        let file = |&(path, text): &(&str, &str)| ContextFile {
            path: path.to_owned().into(),
            text: text.to_owned().into(),
        };
        files.iter().map(file).collect()
    }

    /// The prompt with `^` for `<bos>`, `P`, `S` and `M` for the markers and `/` for the separator.
    fn written(texts: &Texts<'_>, room: Option<usize>) -> String {
        let ids = assemble(encode, texts, room).unwrap();
        let text = |id| match id {
            BOS => "^".to_owned(),
            FIM_PREFIX => "P".to_owned(),
            FIM_SUFFIX => "S".to_owned(),
            FIM_MIDDLE => "M".to_owned(),
            FILE_SEPARATOR => "/".to_owned(),
            TokenId(1001) => "\n\n".to_owned(),
            TokenId(id) => char::from_u32(id - 1000).unwrap().to_string(),
        };
        ids.into_iter().map(text).collect()
    }

    fn infill(prefix: &str, suffix: &str, room: usize) -> String {
        written(&Texts { context: &[], prefix, suffix: Some(suffix), middle: "" }, Some(room))
    }

    #[test]
    fn without_room_nothing_is_cut() {
        let context = files(&[("a.py", "x"), ("b/c.py", "y\n")]);
        let mut texts = Texts { context: &context, prefix: "pre", suffix: Some("suf"), middle: "mid" };
        assert_eq!(written(&texts, None), "^a.py\nx/b/c.py\ny\n/PpreSsufMmid");
        texts.suffix = Some("");
        assert_eq!(written(&texts, None), "^a.py\nx/b/c.py\ny\n/PpreS\nMmid");
        texts = Texts { context: &context, prefix: "pre", suffix: None, middle: "" };
        assert_eq!(written(&texts, None), "^a.py\nx/b/c.py\ny\n/pre");
    }

    #[test]
    fn an_empty_context_is_the_plain_template() {
        for (prefix, suffix) in [("a\nb", "c"), ("", "b"), ("a", "")] {
            let texts = Texts { context: &[], prefix, suffix: Some(suffix), middle: "" };
            assert_eq!(assemble(encode, &texts, None), super::super::infill(encode, prefix, suffix));
        }
        let texts = Texts { context: &[], prefix: "ab", suffix: None, middle: "" };
        assert_eq!(assemble(encode, &texts, None), super::super::completion(encode, "ab"));
    }

    #[test]
    fn cuts_are_at_line_ends_around_the_cursor() {
        assert_eq!(infill("one\ntwo\nth", "ree\nfour\nfive", 99), "^Pone\ntwo\nthSree\nfour\nfiveM");
        assert_eq!(infill("one\ntwo\nth", "ree\nfour\nfive", 24), "^Pone\ntwo\nthSree\nfour\nM");
        // A quarter of 16 is the suffix's; what its whole lines leave is the prefix's.
        assert_eq!(infill("one\ntwo\nthree\nfo", "ur\nfive\n", 20), "^Ptwo\nthree\nfoSur\nM");
        assert_eq!(infill("one\n", "two\nthree\nfour\n", 19), "^Pone\nStwo\nthree\nM");
    }

    #[test]
    fn of_a_line_that_is_too_long_what_is_nearest_stays() {
        assert_eq!(infill("abcdefgh", "stuvwxyz", 12), "^PcdefghSstM");
        assert_eq!(infill("x\nabcdefgh", "stuvwxyz\ny", 12), "^PcdefghSstM");
        assert_eq!(infill("abcdefgh", "s", 9), "^PefghSsM");
        for room in 0..=4 {
            assert_eq!(infill("ab", "st", room), "^PSM");
        }
    }

    #[test]
    fn the_middle_stays_and_files_go_before_lines_do() {
        let context = files(&[("a", "1"), ("b", "22222222"), ("c", "3")]);
        let texts = Texts { context: &context, prefix: "one\ntwo", suffix: Some("s"), middle: "mid" };
        assert_eq!(written(&texts, Some(34)), "^a\n1/b\n22222222/c\n3/Pone\ntwoSsMmid");
        assert_eq!(written(&texts, Some(33)), "^b\n22222222/c\n3/Pone\ntwoSsMmid");
        assert_eq!(written(&texts, Some(19)), "^c\n3/Pone\ntwoSsMmid");
        assert_eq!(written(&texts, Some(18)), "^Pone\ntwoSsMmid");
        assert_eq!(written(&texts, Some(11)), "^PtwoSsMmid");
        let plain = Texts { context: &context, prefix: "one\ntwo", suffix: None, middle: "" };
        assert_eq!(written(&plain, Some(4)), "^two");
    }

    proptest! {
        #[test]
        fn a_cut_prompt_fits_and_keeps_what_is_around_the_cursor(
            prefix in "[ab\n]{0,80}", suffix in "[ab\n]{0,80}", room in 4usize..120,
        ) {
            let cut = infill(&prefix, &suffix, room);
            let count = encode(&cut).unwrap().len();
            prop_assert!(count <= room, "{cut:?} has {count}");
            let (before, after) = cut.strip_prefix("^P").unwrap().strip_suffix('M').unwrap().split_once('S').unwrap();
            prop_assert!(prefix.ends_with(before));
            let suffix = if suffix.is_empty() { "\n" } else { &suffix };
            prop_assert!(suffix.starts_with(after));
            if encode(&prefix).unwrap().len() + encode(suffix).unwrap().len() + 4 > room {
                // Whole lines, or a part of the cursor's own.
                let (gone, _) = prefix.split_at(prefix.len() - before.len());
                let at_line = gone.is_empty() || gone.ends_with('\n');
                prop_assert!(at_line || before.trim_end_matches('\n').find('\n').is_none());
            } else {
                prop_assert_eq!((before, after), (prefix.as_str(), suffix));
            }
        }
    }
}
