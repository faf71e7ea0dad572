//! Values: what expressions come to, how they compare, and how JSON is read.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value as Json;

use super::time::{Duration, Timestamp};
use super::types::TypeName;

/// A value of the language.
#[derive(Clone, Debug)]
pub(in crate::policy) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Value>>),
    Map(Arc<Map>),
    Timestamp(Timestamp),
    Duration(Duration),
    Type(TypeName),
}

/// Entries in the order of their making; a key occurs once.
pub(in crate::policy) type Map = Vec<(Key, Value)>;

/// What may be a map's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(Arc<str>),
}

/// How the numbers of a JSON text are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum NumberReading {
    /// Integers as `int`; beyond it as `double`.
    Int,
    /// Integers as `int`; beyond it as `uint`.
    Uint,
    /// All as `double`, as google.protobuf.Value and the specification have it.
    Double,
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }

    /// `json` as a value of the language.
    pub(in crate::policy) fn from_json(json: &Json, reading: NumberReading) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => {
                let double = || Self::Double(number.as_f64().unwrap_or(f64::NAN));
                match (reading, number.as_i64(), number.as_u64()) {
                    (NumberReading::Double, ..) => double(),
                    (_, Some(int), _) => Self::Int(int),
                    (NumberReading::Uint, _, Some(uint)) => Self::Uint(uint),
                    _ => double(),
                }
            }
            Json::String(text) => Self::text(text),
            Json::Array(items) => {
                Self::List(Arc::new(items.iter().map(|item| Self::from_json(item, reading)).collect()))
            }
            Json::Object(members) => {
                let entry = |(name, value): (&String, &Json)| {
                    (Key::Text(name.as_str().into()), Self::from_json(value, reading))
                };
                Self::Map(Arc::new(members.iter().map(entry).collect()))
            }
        }
    }

    pub(super) fn type_name(&self) -> TypeName {
        match self {
            Self::Null => TypeName::Null,
            Self::Bool(_) => TypeName::Bool,
            Self::Int(_) => TypeName::Int,
            Self::Uint(_) => TypeName::Uint,
            Self::Double(_) => TypeName::Double,
            Self::Text(_) => TypeName::Text,
            Self::Bytes(_) => TypeName::Bytes,
            Self::List(_) => TypeName::List,
            Self::Map(_) => TypeName::Map,
            Self::Timestamp(_) => TypeName::Timestamp,
            Self::Duration(_) => TypeName::Duration,
            Self::Type(_) => TypeName::Type,
        }
    }

    /// Equality over types: values of different types are not equal, but numbers compare by their value.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, value)| find(b, key).is_some_and(|other| value.equals(other)))
            }
            _ => self.compare_numbers(other) == Some(Some(Ordering::Equal)),
        }
    }

    /// How many values there are to compare.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Self::List(items) => items.iter().map(Self::weight).sum::<u64>() + 1,
            Self::Map(entries) => entries.iter().map(|(_, value)| value.weight() + 1).sum::<u64>() + 1,
            Self::Text(text) => text.len() as u64 / 64 + 1,
            Self::Bytes(bytes) => bytes.len() as u64 / 64 + 1,
            _ => 1,
        }
    }

    /// The order of two values; the outer `None` if there is none between their types, the inner for NaN.
    pub(super) fn compare(&self, other: &Self) -> Option<Option<Ordering>> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(Some(a.cmp(b))),
            (Self::Text(a), Self::Text(b)) => Some(Some(a.as_bytes().cmp(b.as_bytes()))),
            (Self::Bytes(a), Self::Bytes(b)) => Some(Some(a.cmp(b))),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(Some(a.cmp(b))),
            (Self::Duration(a), Self::Duration(b)) => Some(Some(a.cmp(b))),
            _ => self.compare_numbers(other),
        }
    }

    fn compare_numbers(&self, other: &Self) -> Option<Option<Ordering>> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(Some(a.cmp(b))),
            (Self::Uint(a), Self::Uint(b)) => Some(Some(a.cmp(b))),
            (Self::Int(a), Self::Uint(b)) => Some(Some(i128::from(*a).cmp(&i128::from(*b)))),
            (Self::Uint(a), Self::Int(b)) => Some(Some(i128::from(*a).cmp(&i128::from(*b)))),
            (Self::Double(a), Self::Double(b)) => Some(a.partial_cmp(b)),
            // As the engine: the integer becomes a double, and may lose digits.
            (Self::Int(a), Self::Double(b)) => Some((*a as f64).partial_cmp(b)),
            (Self::Uint(a), Self::Double(b)) => Some((*a as f64).partial_cmp(b)),
            (Self::Double(a), Self::Int(b)) => Some(a.partial_cmp(&(*b as f64))),
            (Self::Double(a), Self::Uint(b)) => Some(a.partial_cmp(&(*b as f64))),
            _ => None,
        }
    }
}

/// The value at `key`; an int and a uint of one value are one key.
pub(in crate::policy) fn find<'a>(map: &'a Map, key: &Key) -> Option<&'a Value> {
    let exact = |key: &Key| map.iter().find(|(known, _)| known == key).map(|(_, value)| value);
    exact(key).or_else(|| match key {
        Key::Int(int) => u64::try_from(*int).ok().and_then(|uint| exact(&Key::Uint(uint))),
        Key::Uint(uint) => i64::try_from(*uint).ok().and_then(|int| exact(&Key::Int(int))),
        _ => None,
    })
}

impl Key {
    /// The key that a map is made with.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Int(value) => Some(Self::Int(*value)),
            Value::Uint(value) => Some(Self::Uint(*value)),
            Value::Text(value) => Some(Self::Text(Arc::clone(value))),
            _ => None,
        }
    }

    /// The key that a map is looked up with: `Ok(None)` for a double that no key equals; `Err` for what is no key.
    pub(super) fn sought(value: &Value) -> Result<Option<Self>, ()> {
        match value {
            Value::Double(double) if double.fract() == 0.0 => {
                // Within ±2^63 the conversion is exact.
                let limit = 9_223_372_036_854_775_808.0;
                Ok(if *double >= -limit && *double < limit {
                    Some(Self::Int(*double as i64))
                } else if *double >= limit && *double < 2.0 * limit {
                    Some(Self::Uint(*double as u64))
                } else {
                    None
                })
            }
            Value::Double(_) => Ok(None),
            value => Self::of(value).map(Some).ok_or(()),
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::Text(value) => Value::Text(Arc::clone(value)),
        }
    }
}
