//! Conversions between types: `int(…)`, `string(…)` and the like.

use super::Reason;
use super::evaluated::{Evaluated, no_overload};
use super::number::double_text;
use super::stop::Stop;
use super::time::{Duration, Timestamp};
use super::value::Value;

/// Converts `value` as the function `name` does.
pub(super) fn convert(name: &str, value: &Value) -> Evaluated {
    let converted = match name {
        "int" => int(value)?,
        "uint" => uint(value)?,
        "double" => double(value)?,
        "string" => string(value)?,
        "bytes" => match value {
            Value::Bytes(_) => Some(value.clone()),
            Value::Text(text) => Some(Value::bytes(text.as_bytes())),
            _ => None,
        },
        "bool" => boolean(value)?,
        "timestamp" => match value {
            Value::Timestamp(_) => Some(value.clone()),
            Value::Int(seconds) => Some(Value::Timestamp(Timestamp::from_seconds(*seconds)?)),
            Value::Text(text) => Some(Value::Timestamp(Timestamp::parse(text)?)),
            _ => None,
        },
        "duration" => match value {
            Value::Duration(_) => Some(value.clone()),
            Value::Text(text) => Some(Value::Duration(Duration::parse(text)?)),
            _ => None,
        },
        _ => None,
    };
    converted.ok_or_else(|| no_overload(name, &[value]))
}

fn out_of_range() -> Stop {
    Stop::error("the number is out of range")
}

fn malformed(what: &str) -> Stop {
    Stop::error(format!("the text is no {what}"))
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r'))
}

fn int(value: &Value) -> Result<Option<Value>, Stop> {
    Ok(Some(Value::Int(match value {
        Value::Int(int) => *int,
        // Not among the declared overloads: only a claim can be converted so.
        Value::Bool(value) => i64::from(*value),
        Value::Uint(uint) => i64::try_from(*uint).map_err(|_| out_of_range())?,
        // Both bounds are excluded; the lower one could be represented.
        Value::Double(double)
            if *double > -9_223_372_036_854_775_808.0 && *double < 9_223_372_036_854_775_808.0 =>
        {
            *double as i64
        }
        Value::Double(_) => return Err(out_of_range()),
        Value::Text(text) => digits(text, true)?.parse().map_err(|_| malformed("int"))?,
        Value::Timestamp(time) => time.seconds(),
        _ => return Ok(None),
    })))
}

fn uint(value: &Value) -> Result<Option<Value>, Stop> {
    Ok(Some(Value::Uint(match value {
        Value::Uint(uint) => *uint,
        Value::Int(int) => u64::try_from(*int).map_err(|_| out_of_range())?,
        Value::Double(double) if *double >= 0.0 && *double < 18_446_744_073_709_551_616.0 => *double as u64,
        Value::Double(_) => return Err(out_of_range()),
        Value::Text(text) => digits(text, false)?.parse().map_err(|_| malformed("uint"))?,
        _ => return Ok(None),
    })))
}

/// The number in `text` without blanks around it and without `+`.
fn digits(text: &str, signed: bool) -> Result<&str, Stop> {
    let text = trim(text);
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let magnitude = if signed && unsigned.len() == text.len() {
        text.strip_prefix('-').unwrap_or(text)
    } else {
        unsigned
    };
    if magnitude.is_empty() || !magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed(if signed { "int" } else { "uint" }));
    }
    Ok(unsigned)
}

fn double(value: &Value) -> Result<Option<Value>, Stop> {
    Ok(Some(Value::Double(match value {
        Value::Double(double) => *double,
        Value::Int(int) => *int as f64,
        Value::Uint(uint) => *uint as f64,
        Value::Text(text) => {
            let text = trim(text);
            let plain = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
            if plain.starts_with("0x") || plain.starts_with("nan(") {
                return Err(Stop::undecided(
                    Reason::NumberText,
                    "double() of hexadecimal numbers and of nan(…) is not defined: write the number in decimal",
                ));
            }
            text.parse().map_err(|_| malformed("double"))?
        }
        _ => return Ok(None),
    })))
}

fn boolean(value: &Value) -> Result<Option<Value>, Stop> {
    match value {
        Value::Bool(_) => Ok(Some(value.clone())),
        Value::Text(text) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Some(Value::Bool(true))),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Some(Value::Bool(false))),
            _ => Err(malformed("bool")),
        },
        _ => Ok(None),
    }
}

fn string(value: &Value) -> Result<Option<Value>, Stop> {
    Ok(Some(Value::text(&match value {
        Value::Text(_) => return Ok(Some(value.clone())),
        Value::Int(int) => int.to_string(),
        Value::Uint(uint) => uint.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Double(double) => double_text(*double).ok_or_else(|| {
            Stop::undecided(Reason::NumberText, "string() of NaN depends on its sign, which is not defined")
        })?,
        Value::Bytes(bytes) => {
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed("UTF-8 text"))?
        }
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(duration) => duration.to_string(),
        _ => return Ok(None),
    })))
}
