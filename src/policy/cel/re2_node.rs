//! The parts of a pattern: how large a program they make, and the same in the `regex` crate's syntax.

use std::fmt::Write;

use super::re2_class::Class;

/// A piece of a pattern.
pub(super) enum Node {
    Empty,
    Literal(char, bool),
    Class(Class, bool),
    /// In the `regex` crate's syntax.
    Assertion(&'static str),
    Any(bool),
    Concat(Vec<Node>),
    Alternation(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

impl Node {
    /// Instructions, roughly.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Empty | Self::Literal(..) | Self::Assertion(_) => 1,
            Self::Class(class, _) => class.size(),
            Self::Any(_) => 10,
            Self::Concat(nodes) | Self::Alternation(nodes) => {
                nodes.iter().map(Self::size).fold(1, u64::saturating_add)
            }
            Self::Repeat(node, least, most) => {
                node.size().saturating_mul(u64::from(most.unwrap_or(*least).max(1))).saturating_add(1)
            }
        }
    }

    /// Whether nested repetitions are within RE2's bound, of which `left` is left.
    pub(super) fn repeats_within(&self, left: u32) -> bool {
        match self {
            Self::Concat(nodes) | Self::Alternation(nodes) => {
                nodes.iter().all(|node| node.repeats_within(left))
            }
            Self::Repeat(node, least, most) => {
                let times = most.unwrap_or(*least);
                let counted = *least > 1 || most.is_some_and(|most| most > 1);
                node.repeats_within(if counted { left / times.max(1) } else { left })
            }
            _ => left > 0,
        }
    }

    /// Appends the node in the syntax of the `regex` crate.
    pub(super) fn translate(&self, out: &mut String) {
        match self {
            Self::Empty => out.push_str("(?:)"),
            Self::Literal(character, fold) => {
                let (open, close) = if *fold { ("(?i:", ")") } else { ("", "") };
                push(out, format_args!("{open}\\x{{{:X}}}{close}", u32::from(*character)));
            }
            Self::Class(class, fold) => {
                let (open, close) = if *fold { ("(?i:", ")") } else { ("", "") };
                push(out, format_args!("{open}{}{close}", class.translate()));
            }
            Self::Assertion(text) => out.push_str(text),
            Self::Any(newline) => out.push_str(if *newline { "(?s:.)" } else { "[^\\n]" }),
            Self::Concat(nodes) => nodes.iter().for_each(|node| node.translate(out)),
            Self::Alternation(nodes) => {
                out.push_str("(?:");
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.push('|');
                    }
                    node.translate(out);
                }
                out.push(')');
            }
            Self::Repeat(node, least, most) => {
                out.push_str("(?:");
                node.translate(out);
                let most = most.map(|most| most.to_string()).unwrap_or_default();
                push(out, format_args!("){{{least},{most}}}"));
            }
        }
    }
}

/// Writing to a `String` does not fail.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).unwrap_or_default();
}
