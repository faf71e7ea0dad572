//! What an operator or a function comes to.

use super::stop::Stop;
use super::value::Value;

/// A value, or why there is none.
pub(super) type Evaluated = Result<Value, Stop>;

/// The error of an operator or a function without an overload for values of these types.
pub(super) fn no_overload(name: &str, given: &[&Value]) -> Stop {
    let types: Vec<&str> = given.iter().map(|value| value.type_name().name()).collect();
    Stop::error(format!("`{name}` does not take a value of type {}", types.join(" and ")))
}
