//! Where the text that is sent begins, and where the hole does.
//!
//! A prefix cache finds only what has the same beginning. So the window begins at a line that stays while it is in what
//! the client sends, and the hole may begin at a line above the cursor, so that a key changes only what is behind the
//! middle marker.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::{ClientId, head, tail};
use crate::protocol::{HoleStart, MAX_MIDDLE_BYTES, MAX_MIDDLE_LINES, line_start};
use crate::proxy::dialect::Hole;
use crate::secret::Secret;

/// The longest prefix that is sent, in bytes: more does not fit 8192 tokens together with a suffix and an answer.
const MAX_PREFIX_BYTES: usize = 16 * 1024;
/// The longest suffix.
const MAX_SUFFIX_BYTES: usize = 6 * 1024;
/// How much of a text tells where a window begins, in bytes.
const ANCHOR_BYTES: usize = 192;
/// A shorter text is sent whole, whatever was sent before.
const SMALL_BYTES: usize = 2048;
/// How many windows are remembered.
const MAX_WINDOWS: usize = 32;

/// The windows of all clients.
#[derive(Debug, Default)]
pub(crate) struct Windows(Mutex<VecDeque<Window>>);

#[derive(Debug)]
struct Window {
    client: ClientId,
    /// The text that it begins with.
    anchor: Secret<String>,
    /// Text near its end, which the next request has as well.
    near: Secret<String>,
    /// The hole in it, if the next request may keep it.
    hole: Option<KeptHole>,
}

/// A hole that stays while lines are added to it.
#[derive(Debug)]
struct KeptHole {
    /// Where it begins, in bytes from the window's beginning.
    at: usize,
    /// Of the text before and after it: if one of these changes, the prompt is read again anyway.
    around: [u8; 32],
}

impl Windows {
    /// Cuts `hole` to a window that begins where the last one of this client and file did, if it still can, and moves the
    /// boundary between prefix and middle to where `layout` wants it. Text that the client wants behind the middle marker
    /// is moved as well: what the model sees as one hole should not depend on the client.
    pub(crate) fn arrange(&self, client: ClientId, layout: HoleStart, hole: &mut Hole) {
        let suffix = hole.suffix.expose();
        if suffix.len() > MAX_SUFFIX_BYTES {
            let kept = head(suffix, MAX_SUFFIX_BYTES);
            let kept = kept.rfind('\n').and_then(|at| kept.get(..=at)).unwrap_or(kept).to_owned();
            hole.suffix = Secret::new(kept);
        }
        let text = Secret::new([hole.prefix.expose().as_str(), hole.middle.expose()].concat());
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, kept) = find(&mut windows, client, text.expose());
        let sent = text.expose().get(start..).unwrap_or_default();
        let kept = kept.filter(|kept| kept.is_continued(sent, hole.suffix.expose()));
        let at = match layout {
            HoleStart::Cursor => sent.len(),
            HoleStart::Line => line_start(sent, 0),
            HoleStart::Lines => kept.map_or_else(|| line_start(sent, 0), |kept| kept.at),
        };
        let (prefix, middle) = sent.split_at_checked(at).unwrap_or((sent, ""));
        if sent.len() > ANCHOR_BYTES {
            let hole = KeptHole { at, around: digest(prefix, hole.suffix.expose()) };
            let hole = (layout == HoleStart::Lines).then_some(hole);
            remember(&mut windows, client, sent, hole);
        }
        hole.prefix = Secret::new(prefix.to_owned());
        hole.middle = Secret::new(middle.to_owned());
    }
}

impl KeptHole {
    /// Whether the hole may begin there in `sent`, too.
    fn is_continued(&self, sent: &str, suffix: &str) -> bool {
        let Some((prefix, middle)) = sent.split_at_checked(self.at) else { return false };
        let is_short = middle.len() <= MAX_MIDDLE_BYTES && middle.matches('\n').count() <= MAX_MIDDLE_LINES;
        is_short && digest(prefix, suffix) == self.around
    }
}

/// SHA-256 of the text around a hole.
fn digest(prefix: &str, suffix: &str) -> [u8; 32] {
    let length = (prefix.len() as u64).to_le_bytes();
    Sha256::new_with_prefix(length).chain_update(prefix).chain_update(suffix).finalize().into()
}

/// Where in `text` the window begins; takes the window that it is a later state of off the list.
fn find(windows: &mut VecDeque<Window>, client: ClientId, text: &str) -> (usize, Option<KeptHole>) {
    let known = windows.iter().position(|window| {
        window.client == client && text.find(window.anchor.expose().as_str()).is_some_and(|at| fits(text, at))
    });
    if let Some(window) = known.and_then(|index| windows.remove(index)) {
        return (text.find(window.anchor.expose().as_str()).unwrap_or(0), window.hole);
    }
    let is_continued =
        |window: &Window| window.client == client && text.contains(window.near.expose().as_str());
    let is_continued = |window: &Window| text.len() > SMALL_BYTES && is_continued(window);
    let moved = windows.iter().position(is_continued).and_then(|index| windows.remove(index)).is_some();
    let start = match (moved, text.len() > MAX_PREFIX_BYTES) {
        // A third is given up, so that the window can stay for a while.
        (true, false) => line_after(text, text.len() / 3),
        (_, true) => line_after(text, text.len() - MAX_PREFIX_BYTES * 2 / 3),
        (false, false) => 0,
    };
    (start, None)
}

/// Puts a window with the text `sent` on the list.
fn remember(windows: &mut VecDeque<Window>, client: ClientId, sent: &str, hole: Option<KeptHole>) {
    if windows.len() >= MAX_WINDOWS {
        windows.pop_back();
    }
    let body = sent.rfind('\n').and_then(|at| sent.get(..at)).unwrap_or(sent);
    windows.push_front(Window {
        client,
        anchor: Secret::new(head(sent, ANCHOR_BYTES).to_owned()),
        near: Secret::new(tail(body, ANCHOR_BYTES).to_owned()),
        hole,
    });
}

/// Whether a window of `prefix` may begin at `at`: not too long, and without giving up more than a third and the line that
/// begins there.
fn fits(prefix: &str, at: usize) -> bool {
    let at_line = at == 0 || prefix.as_bytes().get(at - 1) == Some(&b'\n');
    prefix.len() - at <= MAX_PREFIX_BYTES
        && (at <= line_after(prefix, prefix.len() / 3) || prefix.len() > MAX_PREFIX_BYTES)
        && at_line
}

/// The beginning of the first line at or after `at`; `at` itself in a text that has none.
fn line_after(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(at, |newline| at + newline + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::dialect;

    const CLIENT: ClientId = ClientId(7);

    fn hole(prefix: &str) -> Hole {
        let body = serde_json::json!({ "input_prefix": prefix, "input_suffix": "\n" }).to_string();
        let ask = dialect::read(dialect::Endpoint::Infill, body.as_bytes()).unwrap();
        let dialect::Task::Hole(hole) = ask.task else { panic!("a hole") };
        hole
    }

    fn file(lines: std::ops::Range<usize>) -> String {
        lines.map(|line| format!("    value_{line} = compute({line})\n")).collect()
    }

    fn anchored(windows: &Windows, prefix: &str) -> String {
        arranged(windows, HoleStart::Cursor, prefix, "\n").0
    }

    /// Prefix and middle as they are sent.
    fn arranged(windows: &Windows, layout: HoleStart, before: &str, suffix: &str) -> (String, String) {
        let mut hole = hole(before);
        hole.suffix = Secret::new(suffix.to_owned());
        windows.arrange(CLIENT, layout, &mut hole);
        (hole.prefix.expose().clone(), hole.middle.expose().clone())
    }

    #[test]
    fn a_short_file_is_sent_as_it_is() {
        let windows = Windows::default();
        for lines in 1..40 {
            assert_eq!(anchored(&windows, &file(0..lines)), file(0..lines));
        }
    }

    /// As Continue does it: lines cut from the top until the rest fits a bound.
    #[test]
    fn a_window_that_moves_with_each_key_stays_put() {
        let windows = Windows::default();
        let mut starts = std::collections::BTreeSet::new();
        let requests = 60;
        for first in 0..requests {
            let sent = anchored(&windows, &file(first..first + 100));
            assert!(file(first..first + 100).ends_with(&sent));
            assert!(sent.len() * 3 >= file(first..first + 100).len() * 2 - 120, "more than a third is lost");
            starts.insert(sent.lines().next().unwrap().to_owned());
        }
        assert!(starts.len() <= 4, "{starts:?}");
    }

    #[test]
    fn a_long_file_is_cut_at_a_line_and_the_cut_stays() {
        let windows = Windows::default();
        let starts: std::collections::BTreeSet<String> = (1000..1100)
            .map(|lines| {
                let sent = anchored(&windows, &file(0..lines));
                assert!(sent.len() <= MAX_PREFIX_BYTES && sent.starts_with("    value_"));
                sent.lines().next().unwrap().to_owned()
            })
            .collect();
        assert_eq!(starts.len(), 1);
    }

    #[test]
    fn the_hole_begins_where_the_layout_says() {
        let arrange = |layout, prefix: &str| arranged(&Windows::default(), layout, prefix, "\n");
        let text = "def f(a):\n    retur";
        for layout in [HoleStart::Line, HoleStart::Lines] {
            assert_eq!(arrange(layout, text), ("def f(a):\n".to_owned(), "    retur".to_owned()));
            assert_eq!(arrange(layout, "x"), (String::new(), "x".to_owned()));
            let long = format!("a\n{}", "x".repeat(MAX_MIDDLE_BYTES + 1));
            assert_eq!(arrange(layout, &long), (long, String::new()));
        }
        assert_eq!(arrange(HoleStart::Cursor, text), (text.to_owned(), String::new()));
    }

    #[test]
    fn a_hole_stays_while_up_to_eight_lines_are_typed_into_it() {
        let (windows, above) = (Windows::default(), file(0..20));
        let mut typed = String::new();
        let mut starts = Vec::new();
        for line in 0..20 {
            for piece in ["    value = ", "compute()", "\n"] {
                typed.push_str(piece);
                let (prefix, middle) =
                    arranged(&windows, HoleStart::Lines, &format!("{above}{typed}"), "end\n");
                assert_eq!(format!("{prefix}{middle}"), format!("{above}{typed}"), "line {line}");
                assert!(middle.matches('\n').count() <= MAX_MIDDLE_LINES);
                starts.push(prefix.len());
            }
        }
        starts.dedup();
        assert_eq!(starts.len(), 3, "{starts:?}");
    }

    /// The window's beginning is behind the third for as long as the line there is.
    #[test]
    fn a_hole_stays_in_a_window_that_has_just_moved() {
        let windows = Windows::default();
        let typed = "    a = 1\n    b = 2\n    c = 3\n";
        let mut middles = Vec::new();
        for end in 1..typed.len() {
            let before = format!("{}{}", file(0..100), typed.get(..end).unwrap());
            let last = before.get(before.len() - 2500..).unwrap();
            middles.push(arranged(&windows, HoleStart::Lines, last, "end\n").1);
        }
        let expected: Vec<_> = (1..typed.len()).map(|end| typed.get(..end).unwrap()).collect();
        assert_eq!(middles, expected);
    }

    #[test]
    fn a_hole_moves_when_the_text_around_it_has_changed_anyway() {
        let windows = Windows::default();
        let above = file(0..20);
        let ask = |before: &str, suffix: &str| arranged(&windows, HoleStart::Lines, before, suffix).1;
        assert_eq!(ask(&format!("{above}one\ntw"), "end\n"), "tw");
        assert_eq!(ask(&format!("{above}one\ntwo\nthr"), "end\n"), "two\nthr", "a new line");
        assert_eq!(ask(&format!("{above}one\ntwo\nth"), "end\n"), "two\nth", "a key that takes one away");
        assert_eq!(ask(&format!("{above}one\ntwo\nthr"), "other\n"), "thr", "another suffix");
        assert_eq!(ask(&format!("{above}ONE\ntwo\nthr"), "other\n"), "thr", "another prefix");
        assert_eq!(ask(&above, "other\n"), "", "a cursor above the hole");
    }
}
