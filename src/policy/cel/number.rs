//! Arithmetic, and the text of numbers.

use std::sync::Arc;

use super::ast::BinaryOp;
use super::evaluated::{Evaluated, no_overload};
use super::stop::Stop;
use super::value::Value;

/// `-value`.
pub(super) fn negate(value: &Value) -> Evaluated {
    match value {
        Value::Int(int) => int.checked_neg().map(Value::Int).ok_or_else(overflow),
        Value::Double(double) => Ok(Value::Double(-double)),
        other => Err(no_overload("-", &[other])),
    }
}

/// `left op right`, for operators on two values of one type, and times.
pub(super) fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Evaluated {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => int(op, *a, *b),
        (Value::Uint(a), Value::Uint(b)) => uint(op, *a, *b),
        (Value::Double(a), Value::Double(b)) => match op {
            BinaryOp::Add => Ok(Value::Double(a + b)),
            BinaryOp::Subtract => Ok(Value::Double(a - b)),
            BinaryOp::Multiply => Ok(Value::Double(a * b)),
            BinaryOp::Divide => Ok(Value::Double(a / b)),
            _ => Err(no_overload(op.sign(), &[left, right])),
        },
        (Value::Text(a), Value::Text(b)) if op == BinaryOp::Add => Ok(Value::Text(format!("{a}{b}").into())),
        (Value::Bytes(a), Value::Bytes(b)) if op == BinaryOp::Add => Ok(Value::bytes(&[&**a, &**b].concat())),
        (Value::List(a), Value::List(b)) if op == BinaryOp::Add => {
            Ok(Value::List(Arc::new(a.iter().chain(b.iter()).cloned().collect())))
        }
        (Value::Timestamp(a), Value::Duration(b)) if op == BinaryOp::Add => a.plus(*b).map(Value::Timestamp),
        (Value::Duration(a), Value::Timestamp(b)) if op == BinaryOp::Add => b.plus(*a).map(Value::Timestamp),
        (Value::Timestamp(a), Value::Duration(b)) if op == BinaryOp::Subtract => {
            a.plus(b.negated()).map(Value::Timestamp)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) if op == BinaryOp::Subtract => {
            a.since(*b).map(Value::Duration)
        }
        (Value::Duration(a), Value::Duration(b)) if op == BinaryOp::Add => a.plus(*b).map(Value::Duration),
        (Value::Duration(a), Value::Duration(b)) if op == BinaryOp::Subtract => {
            a.plus(b.negated()).map(Value::Duration)
        }
        _ => Err(no_overload(op.sign(), &[left, right])),
    }
}

fn overflow() -> Stop {
    Stop::error("the number is out of range")
}

fn int(op: BinaryOp, a: i64, b: i64) -> Evaluated {
    let result = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        BinaryOp::Divide | BinaryOp::Modulo if b == 0 => return Err(Stop::error("division by zero")),
        BinaryOp::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Int).ok_or_else(overflow)
}

fn uint(op: BinaryOp, a: u64, b: u64) -> Evaluated {
    let result = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        BinaryOp::Divide | BinaryOp::Modulo if b == 0 => return Err(Stop::error("division by zero")),
        BinaryOp::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Uint).ok_or_else(overflow)
}

/// A double's text as the engine writes it: the shortest digits, with an exponent from 10^6 on and below 10^-4.
/// `None` for NaN, whose sign it writes.
pub(super) fn double_text(double: f64) -> Option<String> {
    if double.is_nan() {
        return None;
    }
    if double.is_infinite() {
        return Some(if double > 0.0 { "inf".to_owned() } else { "-inf".to_owned() });
    }
    let scientific = format!("{double:e}");
    let (digits, exponent) = scientific.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    if double == 0.0 || (-4..6).contains(&exponent) {
        return Some(format!("{double}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    Some(format!("{digits}e{sign}{:02}", exponent.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_the_engine_does() {
        for (double, text) in [
            (1.0, "1"),
            (-0.0, "-0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (123_456.789, "123456.789"),
            (1_234_567.0, "1.234567e+06"),
            (0.0001, "0.0001"),
            (0.000_012_34, "1.234e-05"),
            (1e100, "1e+100"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(double_text(double).as_deref(), Some(text));
        }
    }
}
