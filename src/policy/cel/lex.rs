//! Text → tokens, by the grammar of Google's engine.

use super::Problem;
use super::ast::Span;

/// What a token is; its text is looked up by its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    /// In backticks.
    QuotedName,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    /// One of `SIGNS`.
    Sign(&'static str),
    End,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// Longer ones first.
const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%",
];

/// `text` on one line and without comments; literals stay as they are.
pub(in crate::policy) fn tidy(text: &str) -> String {
    let Ok(tokens) = lex(text) else { return text.trim().to_owned() };
    let (mut tidy, mut end) = (String::new(), None);
    for Token { span, .. } in tokens.iter().filter(|token| token.kind != Kind::End) {
        let gap = end.and_then(|end| text.get(end..span.start)).unwrap_or_default();
        tidy.push_str(if gap.contains(['\n', '\r', '/']) { " " } else { gap });
        tidy.push_str(text.get(span.start..span.end).unwrap_or_default());
        end = Some(span.end);
    }
    tidy
}

/// The tokens of `text`, [`Kind::End`] last.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, Problem> {
    Lexer { text, at: 0 }.run()
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn run(mut self) -> Result<Vec<Token>, Problem> {
        let mut tokens = Vec::new();
        loop {
            self.skip_blanks();
            let start = self.at;
            if self.rest().is_empty() {
                tokens.push(Token { kind: Kind::End, span: Span { start, end: start } });
                return Ok(tokens);
            }
            let kind = self.token()?;
            tokens.push(Token { kind, span: Span { start, end: self.at } });
        }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blanks(&mut self) {
        loop {
            let start = self.at;
            self.at += self.count(|byte| b" \t\r\n\x0c".contains(&byte));
            if self.rest().starts_with("//") {
                self.at += self.count(|byte| byte != b'\n');
            }
            if self.at == start {
                return;
            }
        }
    }

    /// How many bytes from here on are as asked.
    fn count(&self, holds: impl Fn(u8) -> bool) -> usize {
        self.rest().bytes().take_while(|&byte| holds(byte)).count()
    }

    fn token(&mut self) -> Result<Kind, Problem> {
        if let Some(kind) = self.literal()? {
            return Ok(kind);
        }
        let first = self.byte(0);
        if first.is_ascii_alphabetic() || first == b'_' {
            self.at += self.count(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            return Ok(Kind::Name);
        }
        if first.is_ascii_digit() || (first == b'.' && self.byte(1).is_ascii_digit()) {
            return Ok(self.number());
        }
        if first == b'`' {
            return self.quoted_name();
        }
        let sign = SIGNS.into_iter().find(|sign| self.rest().starts_with(sign));
        let sign = sign.ok_or_else(|| self.unknown())?;
        self.at += sign.len();
        Ok(Kind::Sign(sign))
    }

    fn unknown(&self) -> Problem {
        let found = self.rest().chars().next().unwrap_or(' ');
        let hint = match found {
            '=' => Some("`==` compares".to_owned()),
            '&' => Some("`&&` means and".to_owned()),
            '|' => Some("`||` means or".to_owned()),
            '#' => Some("a comment starts with `//`".to_owned()),
            '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' => {
                Some("use ' or \" as quotation mark".to_owned())
            }
            '\u{feff}' => Some("remove the byte-order mark".to_owned()),
            _ => None,
        };
        let shown = if found.is_control() || (!found.is_ascii() && !found.is_alphanumeric()) {
            format!("U+{:04X}", u32::from(found))
        } else {
            format!("`{found}`")
        };
        Problem::new(self.at, format!("{shown} is no part of an expression")).hint(hint)
    }

    fn number(&mut self) -> Kind {
        if self.byte(0) == b'0' && self.byte(1) == b'x' && self.byte(2).is_ascii_hexdigit() {
            self.at += 2;
            self.at += self.count(|byte| byte.is_ascii_hexdigit());
            return self.unsigned();
        }
        let mut kind = Kind::Int;
        self.at += self.count(|byte| byte.is_ascii_digit());
        if self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
            self.at += 1;
            self.at += self.count(|byte| byte.is_ascii_digit());
            kind = Kind::Double;
        }
        let sign = usize::from(matches!(self.byte(1), b'+' | b'-'));
        if matches!(self.byte(0), b'e' | b'E') && self.byte(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            self.at += self.count(|byte| byte.is_ascii_digit());
            kind = Kind::Double;
        }
        if kind == Kind::Int { self.unsigned() } else { kind }
    }

    fn unsigned(&mut self) -> Kind {
        if matches!(self.byte(0), b'u' | b'U') {
            self.at += 1;
            return Kind::Uint;
        }
        Kind::Int
    }

    fn quoted_name(&mut self) -> Result<Kind, Problem> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/ ".contains(&byte);
        let start = self.at;
        self.at += 1;
        let length = self.count(allowed);
        self.at += length;
        if length == 0 || self.byte(0) != b'`' {
            let message = "a name in backticks has letters, digits, `_`, `.`, `-`, `/` and blanks only";
            return Err(Problem::new(start, message));
        }
        self.at += 1;
        Ok(Kind::QuotedName)
    }

    /// A text or bytes literal, if there is one here.
    fn literal(&mut self) -> Result<Option<Kind>, Problem> {
        let start = self.at;
        let bytes = matches!(self.byte(0), b'b' | b'B');
        let mut prefix = usize::from(bytes);
        let raw = matches!(self.byte(prefix), b'r' | b'R');
        prefix += usize::from(raw);
        let quote = self.byte(prefix);
        if !matches!(quote, b'\'' | b'"') {
            return Ok(None);
        }
        self.at += prefix;
        let triple = self.byte(1) == quote && self.byte(2) == quote;
        let width = if triple { 3 } else { 1 };
        self.at += width;
        loop {
            let byte = self.byte(0);
            if self.rest().is_empty() || (!triple && matches!(byte, b'\n' | b'\r')) {
                let message = "the text is not closed";
                let hint = "a text over several lines is between ''' and '''";
                return Err(Problem::new(start, message).hint((!triple).then(|| hint.to_owned())));
            }
            if byte == b'\\' && !raw {
                self.at += self.escape().ok_or_else(|| self.bad_escape())?;
                continue;
            }
            if byte == quote && (!triple || (self.byte(1) == quote && self.byte(2) == quote)) {
                self.at += width;
                return Ok(Some(if bytes { Kind::Bytes } else { Kind::Text }));
            }
            self.at += self.rest().chars().next().map_or(1, char::len_utf8);
        }
    }

    fn bad_escape(&self) -> Problem {
        let shown: String = self.rest().chars().take(2).collect();
        Problem::new(self.at, format!("`{}` is no escape sequence", shown.escape_default()))
            .hint(Some(r"a backslash is written `\\`, or in a raw text: r'\d'".to_owned()))
    }

    /// The length of the escape sequence here.
    fn escape(&self) -> Option<usize> {
        let hexadecimal =
            |digits: usize| (0..digits).all(|i| self.byte(2 + i).is_ascii_hexdigit()).then_some(2 + digits);
        match self.byte(1) {
            b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'`' | b'\\' | b'?' => Some(2),
            b'x' | b'X' => hexadecimal(2),
            b'u' => hexadecimal(4),
            b'U' => hexadecimal(8),
            b'0'..=b'3' => {
                let octal = |ahead| matches!(self.byte(ahead), b'0'..=b'7');
                (octal(2) && octal(3)).then_some(4)
            }
            _ => None,
        }
    }
}
