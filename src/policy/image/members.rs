//! JSON whose members are each there once.
//!
//! The launcher reads names without their case and merges what is there twice; a reader that takes the last of two
//! would see another image.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A value in which no object has a member twice.
pub(super) struct Unique(pub(super) Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, Unique>()? {
            if found.contains_key(&name) {
                return Err(A::Error::custom(format!("{TWICE}{name}")));
            }
            found.insert(name, value);
        }
        Ok(Value::Object(found))
    }
}

/// How the error of a member that is there twice starts.
const TWICE: &str = "twice: ";

/// The member that is there twice, if that is what the error is about.
pub(super) fn twice(error: &serde_json::Error) -> Option<String> {
    let text = error.to_string();
    let name = text.strip_prefix(TWICE)?;
    Some(name.rsplit_once(" at line ").map_or(name, |(name, _)| name).to_owned())
}
