//! RE2's syntax: what RE2 refuses is an error here.

use super::Reason;
use super::re2_class::{Class, perl_class};
use super::re2_node::Node;
use super::stop::Stop;

/// RE2's bound on a repetition, and on the product of nested ones.
const MAX_REPEAT: u32 = 1000;
/// Of groups in groups; RE2 takes more.
const MAX_DEPTH: usize = 60;

/// A pattern's tree.
pub(super) struct Parsed {
    pub(super) node: Node,
    /// It refers to Unicode tables.
    pub(super) tables: bool,
}

/// Parses a whole pattern.
pub(super) fn parse(pattern: &str) -> Result<Parsed, Stop> {
    let mut parser = Parser { rest: pattern, flags: Flags::default(), depth: 0, tables: false };
    let node = parser.alternation()?;
    if !parser.rest.is_empty() {
        return Err(invalid("unexpected `)`"));
    }
    Ok(Parsed { node, tables: parser.tables })
}

fn invalid(what: &str) -> Stop {
    Stop::error(format!("the pattern is invalid: {what}"))
}

#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_newline: bool,
}

struct Parser<'a> {
    rest: &'a str,
    flags: Flags,
    depth: usize,
    tables: bool,
}

impl Parser<'_> {
    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn next(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next();
        self.rest = characters.as_str();
        next
    }

    /// Up to a `)` that is not taken, or the end.
    fn alternation(&mut self) -> Result<Node, Stop> {
        let mut branches = vec![self.concatenation()?];
        while self.take("|") {
            branches.push(self.concatenation()?);
        }
        Ok(match branches.len() {
            1 => branches.pop().unwrap_or(Node::Empty),
            _ => Node::Alternation(branches),
        })
    }

    fn concatenation(&mut self) -> Result<Node, Stop> {
        let mut nodes: Vec<Node> = Vec::new();
        // Whether the last thing was a repetition, which cannot be repeated.
        let mut repeated = false;
        while let Some(first) = self.rest.chars().next() {
            match first {
                '|' | ')' => break,
                '*' | '+' | '?' | '{' => {
                    let Some((least, most)) = self.repetition(first)? else {
                        self.rest = self.rest.get(1..).unwrap_or_default();
                        nodes.push(self.literal('{'));
                        repeated = false;
                        continue;
                    };
                    self.take("?");
                    if repeated {
                        return Err(invalid("a repetition cannot be repeated"));
                    }
                    let node = nodes.pop().ok_or_else(|| invalid("there is nothing to repeat"))?;
                    let repeat = Node::Repeat(Box::new(node), least, most);
                    if !repeat.repeats_within(MAX_REPEAT) {
                        return Err(invalid("it repeats more than 1000 times"));
                    }
                    nodes.push(repeat);
                    repeated = true;
                    continue;
                }
                _ => {}
            }
            repeated = false;
            self.atom(&mut nodes)?;
        }
        Ok(if nodes.is_empty() { Node::Empty } else { Node::Concat(nodes) })
    }

    /// `None` for a brace that is no repetition; it is a literal then.
    fn repetition(&mut self, first: char) -> Result<Option<(u32, Option<u32>)>, Stop> {
        let bounds = match first {
            '*' => (0, None),
            '+' => (1, None),
            '?' => (0, Some(1)),
            _ => {
                let Some((bounds, rest)) = braces(self.rest) else { return Ok(None) };
                self.rest = rest;
                let (least, most) = bounds;
                if least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT || most < least) {
                    return Err(invalid(
                        "the bounds of a repetition are wrong: 1000 at most, the smaller first",
                    ));
                }
                return Ok(Some(bounds));
            }
        };
        self.rest = self.rest.get(1..).unwrap_or_default();
        Ok(Some(bounds))
    }

    fn literal(&mut self, character: char) -> Node {
        self.tables |= self.flags.fold;
        Node::Literal(character, self.flags.fold)
    }

    fn atom(&mut self, nodes: &mut Vec<Node>) -> Result<(), Stop> {
        let node = match self.next() {
            Some('(') => self.group()?,
            Some('^') => Some(Node::Assertion(if self.flags.multi_line { "(?m:^)" } else { "\\A" })),
            Some('$') => Some(Node::Assertion(if self.flags.multi_line { "(?m:$)" } else { "\\z" })),
            Some('.') => Some(Node::Any(self.flags.dot_newline)),
            Some('[') => {
                let class = self.class()?;
                Some(self.class_node(class))
            }
            Some('\\') => {
                if self.take("Q") {
                    self.quoted(nodes);
                    None
                } else {
                    Some(self.escape()?)
                }
            }
            Some(character) => Some(self.literal(character)),
            None => None,
        };
        nodes.extend(node);
        Ok(())
    }

    fn class_node(&mut self, class: Class) -> Node {
        self.tables |= self.flags.fold || class.has_tables();
        Node::Class(class, self.flags.fold)
    }

    /// `\Q…\E`, or to the end.
    fn quoted(&mut self, nodes: &mut Vec<Node>) {
        while !self.rest.is_empty() && !self.take("\\E") {
            if let Some(character) = self.next() {
                let literal = self.literal(character);
                nodes.push(literal);
            }
        }
    }

    fn escape(&mut self) -> Result<Node, Stop> {
        for (name, assertion) in [("b", "(?-u:\\b)"), ("B", "(?-u:\\B)"), ("A", "\\A"), ("z", "\\z")] {
            if self.take(name) {
                return Ok(Node::Assertion(assertion));
            }
        }
        if self.rest.starts_with('C') {
            return Err(Stop::undecided(
                Reason::PatternBytes,
                "\\C matches a single byte, which is not evaluated: use .",
            ));
        }
        let mut class = Class::default();
        if self.class_escape(&mut class)? {
            return Ok(self.class_node(class));
        }
        let character = self.character_escape()?;
        Ok(match char::from_u32(character) {
            Some(character) => self.literal(character),
            // A surrogate: no text has it.
            None => Node::Class(Class::default(), false),
        })
    }

    /// `\d`, `\pL` and the like, after the backslash; false if it is something else.
    fn class_escape(&mut self, class: &mut Class) -> Result<bool, Stop> {
        let Some(first) = self.rest.chars().next() else { return Ok(false) };
        if let Some((ranges, negated)) = perl_class(first) {
            self.rest = self.rest.get(1..).unwrap_or_default();
            class.add(ranges, negated, self.flags.fold);
            return Ok(true);
        }
        if !matches!(first, 'p' | 'P') {
            return Ok(false);
        }
        self.next();
        let (name, rest) = match self.rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}').ok_or_else(|| invalid("\\p{ is not closed"))?,
            None => {
                let length = self.rest.chars().next().map_or(0, char::len_utf8);
                self.rest.split_at(length)
            }
        };
        self.rest = rest;
        let (name, caret) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        class.add_group(name, (first == 'P') != caret, self.flags.fold)?;
        Ok(true)
    }

    /// The code of an escaped character, after the backslash.
    fn character_escape(&mut self) -> Result<u32, Stop> {
        let bad = |what: &str| invalid(&format!("`\\{what}` is no escape sequence"));
        let first = self.next().ok_or_else(|| invalid("it ends with a backslash"))?;
        let octal = |parser: &Self| parser.rest.chars().next().and_then(|digit| digit.to_digit(8));
        match first {
            '1'..='7' if octal(self).is_none() => Err(bad(&first.to_string())),
            '0'..='7' => {
                let mut code = first.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = octal(self) {
                        code = code * 8 + digit;
                        self.next();
                    }
                }
                Ok(code)
            }
            'x' => self.hexadecimal().ok_or_else(|| bad("x")),
            'n' => Ok(10),
            'r' => Ok(13),
            't' => Ok(9),
            'a' => Ok(7),
            'f' => Ok(12),
            'v' => Ok(11),
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Ok(u32::from(other)),
            other => Err(bad(&other.to_string())),
        }
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let (digits, rest) = match self.rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}')?,
            None => (self.rest.get(..2)?, self.rest.get(2..)?),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digits = digits.trim_start_matches('0');
        let code = if digits.is_empty() { 0 } else { u32::from_str_radix(digits, 16).ok()? };
        self.rest = rest;
        (code <= 0x10_FFFF).then_some(code)
    }

    /// What follows `[`.
    fn class(&mut self) -> Result<Class, Stop> {
        let unclosed = || invalid("`[` is not closed");
        let mut class = Class::default();
        class.negated = self.take("^");
        let mut first = true;
        loop {
            if self.rest.is_empty() {
                return Err(unclosed());
            }
            if self.rest.starts_with(']') && !first {
                self.next();
                return Ok(class);
            }
            first = false;
            if let Some(named) = self.rest.strip_prefix("[:")
                && let Some((name, rest)) = named.split_once(":]")
            {
                class.add_posix(name, self.flags.fold)?;
                self.rest = rest;
                continue;
            }
            let before = self.rest;
            if self.take("\\") {
                if self.class_escape(&mut class)? {
                    continue;
                }
                self.rest = before;
            }
            let low = self.class_character()?;
            let mut high = low;
            let after = self.rest.strip_prefix('-');
            if let Some(after) = after.filter(|after| !after.is_empty() && !after.starts_with(']')) {
                self.rest = after;
                high = self.class_character()?;
                if high < low {
                    return Err(invalid("a range ends before it starts"));
                }
            }
            class.add(&[(low, high)], false, self.flags.fold);
        }
    }

    fn class_character(&mut self) -> Result<u32, Stop> {
        match self.next() {
            None => Err(invalid("`[` is not closed")),
            Some('\\') => self.character_escape(),
            Some(character) => Ok(u32::from(character)),
        }
    }

    /// What follows `(`; `None` for flags alone.
    fn group(&mut self) -> Result<Option<Node>, Stop> {
        let saved = self.flags;
        if let Some(rest) = self.rest.strip_prefix('?') {
            let named = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<'));
            if let Some(named) = named {
                let (name, rest) =
                    named.split_once('>').ok_or_else(|| invalid("the name of a group is not closed"))?;
                if !name.is_ascii() {
                    return Err(Stop::undecided(Reason::UnicodeTables, "the name of a group is not ASCII"));
                }
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    return Err(invalid("the name of a group is wrong"));
                }
                self.rest = rest;
            } else {
                self.rest = rest;
                if self.flag_letters()? {
                    return Ok(None);
                }
            }
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Stop::undecided(
                Reason::PatternSize,
                "the groups of the pattern are nested too deep",
            ));
        }
        let node = self.alternation()?;
        if !self.take(")") {
            return Err(invalid("`(` is not closed"));
        }
        self.depth -= 1;
        self.flags = saved;
        Ok(Some(Node::Concat(vec![node])))
    }

    /// `i-s:` or `i-s)`; whether it ended with `)`.
    fn flag_letters(&mut self) -> Result<bool, Stop> {
        let bad = || invalid("(? is followed by something that RE2 does not know");
        let (mut value, mut negated, mut seen) = (true, false, true);
        loop {
            match self.next().ok_or_else(bad)? {
                'i' => self.flags.fold = value,
                'm' => self.flags.multi_line = value,
                's' => self.flags.dot_newline = value,
                'U' => {}
                '-' if !negated => {
                    (value, negated, seen) = (false, true, false);
                    continue;
                }
                end @ (':' | ')') => return if seen { Ok(end == ')') } else { Err(bad()) },
                _ => return Err(bad()),
            }
            seen = true;
        }
    }
}

/// The bounds of `{2}`, `{2,}` or `{2,3}`, and what follows.
fn braces(text: &str) -> Option<((u32, Option<u32>), &str)> {
    let (inner, rest) = text.strip_prefix('{')?.split_once('}')?;
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = digits.len() > 1 && digits.starts_with('0');
        (plain && !leading_zero)
            .then(|| digits.parse::<u32>().ok())
            .flatten()
            .filter(|&number| number < 100_000_000)
    };
    let bounds = match inner.split_once(',') {
        None => number(inner).map(|times| (times, Some(times)))?,
        Some((least, "")) => (number(least)?, None),
        Some((least, most)) => (number(least)?, Some(number(most)?)),
    };
    Some((bounds, rest))
}
