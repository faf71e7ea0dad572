//! Where the text that is sent begins, and where the hole does.
//!
//! A prefix cache finds only what has the same beginning. So the window begins at a line that stays while it is in what
//! the client sends, and the hole may begin at its line, so that a key changes only what is behind the middle marker.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::{ClientId, head, tail};
use crate::proxy::dialect::Hole;
use crate::secret::Secret;

/// The longest prefix that is sent, in bytes: more does not fit 8192 tokens together with a suffix and an answer.
const MAX_PREFIX_BYTES: usize = 16 * 1024;
/// The longest suffix.
const MAX_SUFFIX_BYTES: usize = 6 * 1024;
/// A longer line is not moved behind the middle marker: the model is not trained for that.
const MAX_MIDDLE_BYTES: usize = 1024;
/// How much of a text tells where a window begins, in bytes.
const ANCHOR_BYTES: usize = 192;
/// A shorter text is sent whole, whatever was sent before.
const SMALL_BYTES: usize = 2048;
/// How many windows are remembered.
const MAX_WINDOWS: usize = 32;

/// Where a hole begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// At the cursor: what is before it is the prefix.
    #[default]
    Cursor,
    /// At the beginning of the cursor's line: a key leaves prefix and suffix as they are.
    Line,
}

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
}

impl Windows {
    /// Cuts `hole` to a window that begins where the last one of this client and file did, if it still can.
    pub(crate) fn anchor(&self, client: ClientId, hole: &mut Hole) {
        let start = self.start(client, hole.prefix.expose());
        if start > 0 {
            let kept = hole.prefix.expose().get(start..).unwrap_or_default().to_owned();
            hole.prefix = Secret::new(kept);
        }
        let suffix = hole.suffix.expose();
        if suffix.len() > MAX_SUFFIX_BYTES {
            let kept = head(suffix, MAX_SUFFIX_BYTES);
            let kept = kept.rfind('\n').and_then(|at| kept.get(..=at)).unwrap_or(kept).to_owned();
            hole.suffix = Secret::new(kept);
        }
    }

    /// Where in `prefix` the window begins.
    fn start(&self, client: ClientId, prefix: &str) -> usize {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = windows.iter().position(|window| {
            window.client == client
                && prefix.find(window.anchor.expose().as_str()).is_some_and(|at| fits(prefix, at))
        });
        let start = match known.and_then(|index| windows.remove(index)) {
            Some(window) => prefix.find(window.anchor.expose().as_str()).unwrap_or(0),
            None => {
                let goes_on = |window: &Window| {
                    window.client == client && prefix.contains(window.near.expose().as_str())
                };
                let goes_on = |window: &Window| prefix.len() > SMALL_BYTES && goes_on(window);
                let moved =
                    windows.iter().position(goes_on).and_then(|index| windows.remove(index)).is_some();
                match (moved, prefix.len() > MAX_PREFIX_BYTES) {
                    // A third is given up, so that the window can stay for a while.
                    (true, false) => line_after(prefix, prefix.len() / 3),
                    (_, true) => line_after(prefix, prefix.len() - MAX_PREFIX_BYTES * 2 / 3),
                    (false, false) => 0,
                }
            }
        };
        let Some(sent) = prefix.get(start..).filter(|sent| sent.len() > ANCHOR_BYTES) else { return start };
        if windows.len() >= MAX_WINDOWS {
            windows.pop_back();
        }
        let body = sent.rfind('\n').and_then(|at| sent.get(..at)).unwrap_or(sent);
        windows.push_front(Window {
            client,
            anchor: Secret::new(head(sent, ANCHOR_BYTES).to_owned()),
            near: Secret::new(tail(body, ANCHOR_BYTES).to_owned()),
        });
        start
    }
}

impl Layout {
    /// Moves the boundary between prefix and middle. Text that the client wants behind the marker is moved as well:
    /// what the model sees as one hole should not depend on the client.
    pub(in crate::proxy) fn arrange(self, hole: &mut Hole) {
        let text = Secret::new([hole.prefix.expose().as_str(), hole.middle.expose()].concat());
        let at = match self {
            Self::Cursor => text.expose().len(),
            Self::Line => {
                let line = text.expose().rfind('\n').map_or(0, |newline| newline + 1);
                if text.expose().len() - line > MAX_MIDDLE_BYTES { text.expose().len() } else { line }
            }
        };
        let (prefix, middle) = text.expose().split_at_checked(at).unwrap_or((text.expose(), ""));
        hole.prefix = Secret::new(prefix.to_owned());
        hole.middle = Secret::new(middle.to_owned());
    }
}

/// Whether a window of `prefix` may begin at `at`: not too long, and without giving up more than a third.
fn fits(prefix: &str, at: usize) -> bool {
    let at_line = at == 0 || prefix.as_bytes().get(at - 1) == Some(&b'\n');
    prefix.len() - at <= MAX_PREFIX_BYTES
        && (at <= prefix.len() / 3 || prefix.len() > MAX_PREFIX_BYTES)
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
        let mut hole = hole(prefix);
        windows.anchor(CLIENT, &mut hole);
        hole.prefix.expose().clone()
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
        let arrange = |layout: Layout, prefix: &str| {
            let mut hole = hole(prefix);
            layout.arrange(&mut hole);
            (hole.prefix.expose().clone(), hole.middle.expose().clone())
        };
        let text = "def f(a):\n    retur";
        assert_eq!(arrange(Layout::Line, text), ("def f(a):\n".to_owned(), "    retur".to_owned()));
        assert_eq!(arrange(Layout::Cursor, text), (text.to_owned(), String::new()));
        assert_eq!(arrange(Layout::Line, "x"), (String::new(), "x".to_owned()));
        let long = format!("a\n{}", "x".repeat(MAX_MIDDLE_BYTES + 1));
        assert_eq!(arrange(Layout::Line, &long), (long, String::new()));
    }
}
