//! Literal tokens → values.

use super::Problem;
use super::value::Value;

/// The value of a text or bytes literal at `at`.
pub(super) fn text(token: &str, at: usize) -> Result<Value, Problem> {
    let bytes = token.starts_with(['b', 'B']);
    let token = token.trim_start_matches(['b', 'B']);
    let raw = token.starts_with(['r', 'R']);
    let token = token.trim_start_matches(['r', 'R']);
    let width =
        if token.len() >= 6 && (token.starts_with("'''") || token.starts_with("\"\"\"")) { 3 } else { 1 };
    let inner = token.get(width..token.len().saturating_sub(width)).unwrap_or_default();
    // Of a text over several lines, the engine reads each kind of line end as one.
    let inner = if width == 3 { inner.replace("\r\n", "\n").replace('\r', "\n") } else { inner.to_owned() };
    if raw {
        let backslashes = inner.bytes().rev().take_while(|&byte| byte == b'\\').count();
        if backslashes % 2 == 1 {
            let problem = Problem::new(at, "a raw text cannot end with a backslash");
            return Err(problem.hint(Some(r"write '\\' without r".to_owned())));
        }
        return Ok(if bytes { Value::bytes(inner.as_bytes()) } else { Value::text(&inner) });
    }
    let mut text = String::new();
    let mut raw_bytes = Vec::new();
    let mut rest = inner.as_str();
    while let Some(first) = rest.chars().next() {
        let (code, length, unit) =
            if first == '\\' { escape(rest) } else { (u32::from(first), first.len_utf8(), Unit::Character) };
        let written = rest.get(..length).unwrap_or(rest);
        if bytes {
            match (unit, u8::try_from(code)) {
                (Unit::CodePoint, _) => {
                    let message = format!("`{written}` cannot be in a bytes literal");
                    return Err(
                        Problem::new(at, message).hint(Some(r"use \x and two digits for a byte".to_owned()))
                    );
                }
                (Unit::Byte, Ok(byte)) => raw_bytes.push(byte),
                _ => raw_bytes.extend_from_slice(written.as_bytes()),
            }
        } else {
            let Some(character) = char::from_u32(code) else {
                return Err(Problem::new(at, format!("`{written}` is no Unicode character")));
            };
            text.push(character);
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(if bytes { Value::bytes(&raw_bytes) } else { Value::text(&text) })
}

/// What a piece of a literal stands for, in a bytes literal.
#[derive(Clone, Copy)]
enum Unit {
    Character,
    Byte,
    CodePoint,
}

/// The code and length of the escape sequence that `text` starts with; the lexer has checked its form.
fn escape(text: &str) -> (u32, usize, Unit) {
    let number = |from: usize, to: usize, radix| {
        text.get(from..to).and_then(|digits| u32::from_str_radix(digits, radix).ok()).unwrap_or(u32::MAX)
    };
    let simple = |code: u8| (u32::from(code), 2, Unit::Byte);
    match text.as_bytes().get(1).copied().unwrap_or(b'\\') {
        b'a' => simple(7),
        b'b' => simple(8),
        b'f' => simple(12),
        b'n' => simple(b'\n'),
        b'r' => simple(b'\r'),
        b't' => simple(b'\t'),
        b'v' => simple(11),
        b'x' | b'X' => (number(2, 4, 16), 4, Unit::Byte),
        b'u' => (number(2, 6, 16), 6, Unit::CodePoint),
        b'U' => (number(2, 10, 16), 10, Unit::CodePoint),
        b'0'..=b'3' => (number(1, 4, 8), 4, Unit::Byte),
        other => simple(other),
    }
}

/// The value of an integer literal, with its sign.
pub(super) fn int(token: &str, negative: bool, at: usize) -> Result<Value, Problem> {
    let value = match token.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => token.parse::<i128>(),
    };
    let value = value.ok().map(|value| if negative { -value } else { value });
    let value = value.and_then(|value| i64::try_from(value).ok());
    value.map(Value::Int).ok_or_else(|| Problem::new(at, "the number does not fit into an int (64 bits)"))
}

/// The value of an unsigned literal.
pub(super) fn uint(token: &str, at: usize) -> Result<Value, Problem> {
    let digits = token.trim_end_matches(['u', 'U']);
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    value.map(Value::Uint).map_err(|_| Problem::new(at, "the number does not fit into a uint (64 bits)"))
}

/// The value of a literal with a fraction or an exponent.
pub(super) fn double(token: &str, negative: bool, at: usize) -> Result<Value, Problem> {
    let value: f64 = token.parse().map_err(|_| Problem::new(at, "no number"))?;
    Ok(Value::Double(if negative { -value } else { value }))
}
