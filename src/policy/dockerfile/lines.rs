//! A Dockerfile's text as instructions: byte-order mark, directives, comments, continued lines, here-documents.
//!
//! A port of BuildKit's `frontend/dockerfile/parser` (v0.32.2); buildah 1.28 differs where [`Builder`] is asked.

use super::blank::split_once_blank;
use super::expand::{Lex, Value};
use super::{Builder, Problem, problem, unknown};

/// Go's scanner takes no longer line.
const MAX_LINE: usize = 64 * 1024 - 1;

/// An instruction, with the lines joined that belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Where it starts, from 1.
    pub(super) line: usize,
    /// Its name in lower case.
    pub(super) name: String,
    /// `--flag` and `--flag=value` before its arguments.
    pub(super) flags: Vec<String>,
    /// Its arguments.
    pub(super) rest: String,
    /// The instruction as it was joined.
    pub(super) original: String,
    /// Its here-documents.
    pub(super) documents: Vec<Document>,
}

/// A Dockerfile's instructions.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) instructions: Vec<Instruction>,
    /// `\`, or the character of `# escape=`.
    pub(super) escape: char,
    /// The frontend that `# syntax=` names.
    pub(super) syntax: Option<String>,
}

/// Directives: comments of a certain form before everything else.
struct Directives {
    builder: Builder,
    escape: char,
    seen: Vec<String>,
    is_over: bool,
}

/// Splits `text` into instructions.
pub(super) fn parse(text: &str, builder: Builder) -> Result<Parsed, (usize, Problem)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut directives = Directives { builder, escape: '\\', seen: Vec::new(), is_over: false };
    let mut lines = text.split_inclusive('\n').enumerate();
    let mut instructions = Vec::new();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        let at = |problem: Problem| (number, problem);
        let first = checked(line).map_err(at)?.trim_start();
        directives.read(first).map_err(at)?;
        if first.starts_with('#') {
            continue;
        }
        let (part, mut is_open) = directives.continued(first);
        if !is_open && part.is_empty() {
            continue;
        }
        let mut whole = part.to_owned();
        while is_open && let Some((_, line)) = lines.next() {
            let line = checked(line).map_err(at)?;
            let trimmed = line.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (part, still_open) = directives.continued(line);
            whole.push_str(part);
            is_open = still_open;
        }
        let mut instruction = instruction(number, &whole, builder, directives.escape).map_err(at)?;
        for mut document in documents(&instruction, builder).map_err(at)? {
            loop {
                match lines.next() {
                    None => return problem("a here-document does not end").map_err(at),
                    Some((_, line)) if document.ends_at(line) => break,
                    Some((_, line)) => document.content.push_str(line),
                }
            }
            instruction.documents.push(document);
        }
        instructions.push(instruction);
    }
    Ok(Parsed { instructions, escape: directives.escape, syntax: syntax(text) })
}

/// An instruction from its one joined line.
pub(super) fn instruction(
    line: usize,
    whole: &str,
    builder: Builder,
    escape: char,
) -> Result<Instruction, Problem> {
    let trimmed = whole.trim();
    let (name, rest) = split_once_blank(trimmed).unwrap_or((trimmed, ""));
    let (flags, rest) = flags(rest, if builder.is_buildah() { '\\' } else { escape })?;
    Ok(Instruction {
        line,
        name: name.to_lowercase(),
        flags,
        rest: rest.trim().to_owned(),
        original: whole.to_owned(),
        documents: Vec::new(),
    })
}

/// A line without its end.
fn checked(line: &str) -> Result<&str, Problem> {
    if line.len() > MAX_LINE {
        return problem("a line is longer than 65,535 bytes");
    }
    Ok(line.trim_end_matches(['\r', '\n']))
}

impl Directives {
    fn read(&mut self, line: &str) -> Result<(), Problem> {
        if self.is_over {
            return Ok(());
        }
        let directive = line.strip_prefix('#').and_then(directive);
        match directive {
            Some((name, value)) if name == "escape" => {
                if self.seen.contains(&name) {
                    return problem("only one escape directive can be used");
                }
                self.seen.push(name);
                let value = if self.builder.is_buildah() { first(value) } else { value };
                self.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => return problem("the escape directive takes \\ or `"),
                };
            }
            Some((name, _)) if !self.builder.is_buildah() && ["syntax", "check"].contains(&name.as_str()) => {
                if self.seen.contains(&name) {
                    return problem(format!("only one {name} directive can be used"));
                }
                self.seen.push(name);
            }
            _ => self.is_over = true,
        }
        Ok(())
    }

    /// The line without what continues it, and whether something did.
    fn continued<'a>(&self, line: &'a str) -> (&'a str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            // To BuildKit, an escaped escape is a character at the end of a line.
            Some(part) if self.builder.is_buildah() || !part.ends_with(self.escape) => (part, true),
            _ => (line, false),
        }
    }
}

/// `NAME = VALUE` behind the `#` of a directive, the name in lower case.
fn directive(comment: &str) -> Option<(String, &str)> {
    let is_space = |c: char| ['\t', '\n', '\u{c}', '\r', ' '].contains(&c);
    let (name, value) = comment.trim_start().split_once('=')?;
    let name = name.trim_end_matches(is_space);
    // A value of blanks only is a blank.
    let value = Some(value.trim_matches(is_space)).filter(|trimmed| !trimmed.is_empty()).unwrap_or(value);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

fn first(text: &str) -> &str {
    text.char_indices().nth(1).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// What `# syntax=` names: read by the builder before any frontend, and so with a `#!` line before it.
fn syntax(text: &str) -> Option<String> {
    let lines = text.lines().skip(usize::from(text.starts_with("#!")));
    let directives = lines.map_while(|line| line.strip_prefix('#').and_then(directive));
    let mut known = directives.take_while(|(name, _)| ["syntax", "check", "escape"].contains(&name.as_str()));
    let (_, value) = known.find(|(name, _)| name == "syntax")?;
    value.split(' ').next().map(str::to_owned)
}

/// The flags before an instruction's arguments, and the arguments.
fn flags(text: &str, escape: char) -> Result<(Vec<String>, &str), Problem> {
    let (mut flags, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return Ok((flags, rest));
        }
        let (mut flag, mut quote, mut was_quoted) = (String::new(), None, false);
        let mut characters = rest.char_indices();
        let mut end = rest.len();
        while let Some((index, c)) = characters.next() {
            if !c.is_ascii() {
                return unknown("a flag has a character that is not ASCII");
            }
            if quote == Some(c) {
                quote = None;
            } else if quote.is_none() && c.is_whitespace() {
                end = index;
                break;
            } else if quote.is_none() && ['"', '\''].contains(&c) {
                (quote, was_quoted) = (Some(c), true);
            } else if c == escape {
                match characters.next() {
                    Some((_, escaped)) => flag.push(escaped),
                    None => quote = None,
                }
            } else {
                flag.push(c);
            }
        }
        rest = rest.get(end..).unwrap_or_default();
        if flag == "--" {
            return Ok((flags, rest));
        }
        if was_quoted || !flag.is_empty() {
            flags.push(flag);
        }
    }
}

/// A here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Document {
    /// The line that ends it.
    pub(super) name: String,
    /// Whether variables are put in.
    pub(super) is_expanded: bool,
    /// Whether tabs at the start of lines go.
    is_chomped: bool,
    pub(super) content: String,
}

impl Document {
    fn ends_at(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        self.name == if self.is_chomped { line.trim_start_matches('\t') } else { line }
    }
}

/// The here-documents that `RUN`, `COPY` and `ADD` announce; buildah 1.28 knows none.
fn documents(instruction: &Instruction, builder: Builder) -> Result<Vec<Document>, Problem> {
    let inner;
    let instruction = if instruction.name == "onbuild" && !builder.is_buildah() {
        inner = self::instruction(instruction.line, &instruction.rest, builder, '\\')?;
        &inner
    } else {
        instruction
    };
    let takes = ["run", "copy", "add"].contains(&instruction.name.as_str());
    let is_list = || super::words::list(&instruction.rest, builder).is_ok_and(|list| list.is_some());
    if builder.is_buildah() || !takes || !instruction.original.contains("<<") || is_list() {
        return Ok(Vec::new());
    }
    let mut lex = Lex::new(builder, '\\');
    (lex.raw_quotes, lex.raw_escapes, lex.skip_unset) = (true, true, true);
    // A line that cannot be split announces none.
    let words = lex.words(&instruction.original, &|_| Value::Unset).unwrap_or_default();
    let documents: Result<Vec<_>, _> = words.iter().map(|word| document(&word.text, builder)).collect();
    Ok(documents?.into_iter().flatten().collect())
}

/// `<<NAME`, `<<-NAME`, `3<<"NAME"`.
pub(super) fn document(word: &str, builder: Builder) -> Result<Option<Document>, Problem> {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = word.strip_prefix("<<") else { return Ok(None) };
    let (is_chomped, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let mut lex = Lex::new(builder, '\\');
    lex.skip_unset = true;
    let plain = lex.words(rest, &|_| Value::Unset)?;
    let [name] = plain.as_slice() else { return Ok(None) };
    lex.raw_quotes = true;
    let raw = lex.words(rest, &|_| Value::Unset)?;
    let quotes = |text: &str| text.chars().filter(|c| ['"', '\''].contains(c)).count();
    let is_expanded = raw.first().is_some_and(|raw| quotes(&raw.text) == quotes(&name.text));
    Ok(Some(Document { name: name.text.clone(), is_expanded, is_chomped, content: String::new() }))
}
