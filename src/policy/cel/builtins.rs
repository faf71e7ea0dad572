//! Functions: which code a call runs, by the types of its arguments.

use super::evaluated::{Evaluated, no_overload};
use super::steps::Steps;
use super::stop::Stop;
use super::time::Timestamp;
use super::value::Value;
use super::{Reason, convert, text};

/// Calls `name`; a receiver is the first of `given`.
pub(super) fn call(name: &str, given: &[Value], steps: &mut Steps) -> Evaluated {
    if let [Value::Text(a), Value::Text(b)] = given {
        steps.add((a.len() + b.len()) as u64 / 16)?;
    }
    match (name, given) {
        ("dyn", [value]) => Ok(value.clone()),
        ("type", [value]) => Ok(Value::Type(value.type_name())),
        ("size", [value]) => size(value),
        ("contains", [Value::Text(a), Value::Text(b)]) => Ok(Value::Bool(a.contains(&**b))),
        ("startsWith", [Value::Text(a), Value::Text(b)]) => Ok(Value::Bool(a.starts_with(&**b))),
        ("endsWith", [Value::Text(a), Value::Text(b)]) => Ok(Value::Bool(a.ends_with(&**b))),
        ("matches", [Value::Text(a), Value::Text(pattern)]) => {
            let pattern = steps.pattern(pattern)?;
            steps.add((a.len() as u64).saturating_mul(pattern.size()) / 256)?;
            pattern.matches(a).map(Value::Bool)
        }
        ("extract", [Value::Text(a), Value::Text(template)]) => text::extract(a, template),
        ("split", [Value::Text(a), Value::Text(separator)]) => text::split(a, separator, -1),
        ("split", [Value::Text(a), Value::Text(separator), Value::Int(limit)]) => {
            text::split(a, separator, *limit)
        }
        ("join", [list]) => text::join(list, ""),
        ("join", [list, Value::Text(separator)]) => text::join(list, separator),
        ("lowerAscii", [Value::Text(a)]) => Ok(Value::text(&a.to_ascii_lowercase())),
        (name, [value]) if name.starts_with("get") => field(name, value, 0),
        (name, [value @ Value::Timestamp(_), Value::Text(zone)]) if name.starts_with("get") => {
            field(name, value, offset(zone)?)
        }
        (name, [value]) => convert::convert(name, value),
        (name, given) => Err(no_overload(name, &given.iter().collect::<Vec<_>>())),
    }
}

fn size(value: &Value) -> Evaluated {
    let size = match value {
        Value::Text(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        other => return Err(no_overload("size", &[other])),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Seconds east of Greenwich. Zones by name need a database whose versions differ.
fn offset(zone: &str) -> Result<i64, Stop> {
    if matches!(zone, "UTC" | "GMT") {
        return Ok(0);
    }
    let (negative, digits) = match zone.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if let [h1 @ b'0'..=b'2', h2 @ b'0'..=b'9', b':', m1 @ b'0'..=b'5', m2 @ b'0'..=b'9'] = digits {
        let digit = |byte: &u8| i64::from(byte - b'0');
        let (hours, minutes) = (digit(h1) * 10 + digit(h2), digit(m1) * 10 + digit(m2));
        if hours <= 14 {
            let seconds = hours * 3600 + minutes * 60;
            return Ok(if negative { -seconds } else { seconds });
        }
    }
    Err(Stop::undecided(
        Reason::TimeZone,
        format!("the time zone {zone:?} is not evaluated: write an offset such as '+02:00', or 'UTC'"),
    ))
}

fn field(name: &str, value: &Value, offset: i64) -> Evaluated {
    let number = match value {
        Value::Timestamp(time) => time_field(name, *time, offset),
        Value::Duration(duration) => match name {
            "getHours" => Some(duration.whole(3600)),
            "getMinutes" => Some(duration.whole(60)),
            "getSeconds" => Some(duration.whole(1)),
            "getMilliseconds" => Some(duration.milliseconds()),
            _ => None,
        },
        _ => None,
    };
    number.map(Value::Int).ok_or_else(|| no_overload(name, &[value]))
}

fn time_field(name: &str, time: Timestamp, offset: i64) -> Option<i64> {
    let civil = time.civil(offset);
    Some(match name {
        "getFullYear" => civil.year,
        "getMonth" => civil.month - 1,
        "getDayOfYear" => civil.day_of_year,
        "getDayOfMonth" => civil.day - 1,
        "getDate" => civil.day,
        "getDayOfWeek" => civil.weekday,
        "getHours" => civil.hour,
        "getMinutes" => civil.minute,
        "getSeconds" => civil.second,
        "getMilliseconds" => civil.millisecond,
        _ => return None,
    })
}
