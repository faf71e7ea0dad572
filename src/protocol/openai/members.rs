//! Reads a JSON object member by member, so that a refusal names the member and what it may be.
//!
//! A member that is `null` counts as absent. A member that is given twice is refused: readers differ in which of the two
//! they take. Values are skipped without recursion until they are asked for, so nesting costs no stack.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::secret::Secret;

/// What is wrong with a request. Holds nothing that the request says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is JSON of another kind.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// One of its members is not what it may be.
    #[error("{member} {problem}")]
    Member {
        /// The member's name, with its place if it is nested: `messages[2].content`.
        member: Cow<'static, str>,
        /// What it must be, to be read behind the name.
        problem: &'static str,
    },
}

impl RequestError {
    /// `member` has this problem.
    pub fn member(member: impl Into<Cow<'static, str>>, problem: &'static str) -> Self {
        Self::Member { member: member.into(), problem }
    }
}

/// The members of an object.
pub(super) struct Members<'a> {
    /// What the names of the members begin with.
    at: String,
    entries: Vec<(String, &'a str)>,
}

/// A value and what it is called. Never `null`.
pub(super) struct Value<'a> {
    at: Cow<'static, str>,
    json: &'a str,
}

impl<'a> Members<'a> {
    /// The members of a whole body.
    ///
    /// # Errors
    /// [`RequestError::NotAnObject`].
    pub(super) fn parse(json: &'a str) -> Result<Self, RequestError> {
        let Entries(entries) = serde_json::from_str(json).map_err(|_| RequestError::NotAnObject)?;
        Ok(Self { at: String::new(), entries })
    }

    /// The member `name`, unless it is absent or `null`.
    ///
    /// # Errors
    /// It is given twice.
    pub(super) fn take(&self, name: &'static str) -> Result<Option<Value<'a>>, RequestError> {
        let mut found = self.entries.iter().filter(|(other, _)| other == name).map(|(_, json)| *json);
        let (first, second) = (found.next(), found.next());
        if second.is_some() {
            return Err(RequestError::Member { member: self.name(name), problem: "is given twice" });
        }
        let json = first.filter(|json| *json != "null");
        Ok(json.map(|json| Value { at: self.name(name), json }))
    }

    /// Whether there is no member at all.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The member `name`.
    ///
    /// # Errors
    /// It is given twice, absent or `null`.
    pub(super) fn require(
        &self,
        name: &'static str,
        problem: &'static str,
    ) -> Result<Value<'a>, RequestError> {
        let value = self.take(name)?;
        value.ok_or_else(|| RequestError::Member { member: self.name(name), problem })
    }

    fn name(&self, name: &'static str) -> Cow<'static, str> {
        if self.at.is_empty() { Cow::Borrowed(name) } else { Cow::Owned(format!("{}.{name}", self.at)) }
    }
}

impl<'a> Value<'a> {
    /// An error about this value.
    pub(super) fn refuse(&self, problem: &'static str) -> RequestError {
        RequestError::Member { member: self.at.clone(), problem }
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.json.starts_with('[')
    }

    /// Whether it is a text.
    pub(super) fn is_text(&self) -> bool {
        self.json.starts_with('"')
    }

    /// Whether it is an object.
    pub(super) fn is_object(&self) -> bool {
        self.json.starts_with('{')
    }

    /// The text that it is.
    ///
    /// # Errors
    /// It is none, or holds half a surrogate pair.
    pub(super) fn text(&self, problem: &'static str) -> Result<Secret<String>, RequestError> {
        if !self.is_text() {
            return Err(self.refuse(problem));
        }
        let text = serde_json::from_str(self.json).map(Secret::new);
        text.map_err(|_| self.refuse("must be valid Unicode: it holds half a surrogate pair"))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn flag(&self) -> Result<bool, RequestError> {
        match self.json {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.refuse("must be true or false")),
        }
    }

    /// The number that it is; one beyond the range of f64 is infinite.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn number(&self) -> Result<f64, RequestError> {
        self.as_number().ok_or_else(|| self.refuse("must be a number"))
    }

    /// The whole number that it is; one that is larger than can be counted is the largest one. `16.0` and `1e2` are whole.
    ///
    /// # Errors
    /// It is no whole number, or negative.
    pub(super) fn count(&self) -> Result<usize, RequestError> {
        let problem = "must be a whole number, not negative";
        if let Ok(count) = self.json.parse() {
            return Ok(count);
        }
        // A number beyond the range of f64 is read as infinity.
        let is_count = |number: &f64| *number >= 0.0 && (number.is_infinite() || number.fract() == 0.0);
        let number = self.as_number().filter(is_count);
        number.map(|number| number as usize).ok_or_else(|| self.refuse(problem))
    }

    /// A whole number of 64 bits, signed or not: the bits of it.
    ///
    /// # Errors
    /// It is no whole number, or has more bits.
    pub(super) fn bits(&self) -> Result<u64, RequestError> {
        let problem = "must be a whole number of 64 bits, signed or not";
        if let Ok(bits) = self.json.parse() {
            return Ok(bits);
        }
        if let Ok(signed) = self.json.parse::<i64>() {
            return Ok(signed.cast_unsigned());
        }
        const END: f64 = 18_446_744_073_709_551_616.0;
        const START: f64 = -9_223_372_036_854_775_808.0;
        match self.as_number() {
            Some(number) if number.fract() == 0.0 && (0.0..END).contains(&number) => Ok(number as u64),
            Some(number) if number.fract() == 0.0 && (START..0.0).contains(&number) => {
                Ok((number as i64).cast_unsigned())
            }
            _ => Err(self.refuse(problem)),
        }
    }

    /// The values of the list that it is; they may be `null`.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn list(&self, problem: &'static str) -> Result<Vec<Value<'a>>, RequestError> {
        let values: Vec<&'a RawValue> = serde_json::from_str(self.json).map_err(|_| self.refuse(problem))?;
        let place = |(index, value): (usize, &'a RawValue)| Value {
            at: Cow::Owned(format!("{}[{index}]", self.at)),
            json: value.get(),
        };
        Ok(values.into_iter().enumerate().map(place).collect())
    }

    /// The members of the object that it is.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn members(&self, problem: &'static str) -> Result<Members<'a>, RequestError> {
        let Entries(entries) = serde_json::from_str(self.json).map_err(|_| self.refuse(problem))?;
        Ok(Members { at: self.at.clone().into_owned(), entries })
    }

    fn as_number(&self) -> Option<f64> {
        // Rust also reads `inf`, `nan` and `+1`, which no JSON has: a number of JSON begins with a digit or a minus.
        let is_number = self.json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        if is_number { self.json.parse().ok() } else { None }
    }
}

/// All members of an object in their order, the same name as often as it is there.
struct Entries<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    entries.push((name, value.get()));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(json: &str, read: impl FnOnce(&Value<'_>) -> Result<T, RequestError>) -> Result<T, String> {
        let body = format!(r#"{{"x":{json}}}"#);
        let value = Members::parse(&body).unwrap().take("x").unwrap().unwrap();
        read(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        for (json, expected) in [
            ("0", 0),
            ("16", 16),
            ("16.0", 16),
            ("1e2", 100),
            ("1.6e1", 16),
            ("-0", 0),
            ("-0.0", 0),
            ("18446744073709551615", usize::MAX),
            ("18446744073709551616", usize::MAX),
            ("1e30", usize::MAX),
            ("1e999", usize::MAX),
        ] {
            assert_eq!(with(json, |value| value.count()), Ok(expected), "{json}");
        }
        for json in ["-1", "1.5", "1e-1", "-1e999", "\"1\"", "true", "[]", "{}"] {
            assert_eq!(
                with(json, |value| value.count()),
                Err("x must be a whole number, not negative".into()),
                "{json}"
            );
        }
    }

    #[test]
    fn a_seed_is_any_number_of_64_bits() {
        for (json, expected) in [
            ("0", 0),
            ("7.0", 7),
            ("-1", u64::MAX),
            ("-1.0", u64::MAX),
            ("-9223372036854775808", 1 << 63),
            ("18446744073709551615", u64::MAX),
            ("-0", 0),
        ] {
            assert_eq!(with(json, |value| value.bits()), Ok(expected), "{json}");
        }
        for json in
            ["18446744073709551616", "-9223372036854775809e1", "1e20", "0.5", "1e999", "\"7\"", "false"]
        {
            assert!(with(json, |value| value.bits()).is_err(), "{json}");
        }
    }

    #[test]
    fn numbers_are_no_texts_and_no_flags() {
        assert_eq!(with("-2.5e-1", |value| value.number()), Ok(-0.25));
        for json in ["\"1\"", "true", "[1]", "{}"] {
            assert_eq!(with(json, |value| value.number()), Err("x must be a number".into()), "{json}");
        }
        for json in ["1", "0", "\"true\"", "[]"] {
            assert_eq!(with(json, |value| value.flag()), Err("x must be true or false".into()), "{json}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        let error = with(r#""\ud83e""#, |value| value.text("must be a text").map(|_| ()));
        assert_eq!(error, Err("x must be valid Unicode: it holds half a surrogate pair".into()));
        assert_eq!(with(r#""\ud83e\udd80""#, |value| value.text("")).unwrap().expose(), "🦀");
    }

    #[test]
    fn a_member_given_twice_is_refused_and_null_is_none() {
        let members = Members::parse(r#"{"a":1,"b":null,"a":1}"#).unwrap();
        assert_eq!(members.take("a").err().unwrap().to_string(), "a is given twice");
        assert!(members.take("b").unwrap().is_none() && members.take("c").unwrap().is_none());
        assert_eq!(members.require("b", "is missing").err().unwrap().to_string(), "b is missing");
    }

    #[test]
    fn deep_nesting_costs_no_stack_and_names_the_member() {
        let body = format!(r#"{{"x":{}{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
        let members = Members::parse(&body).unwrap();
        let value = members.take("x").unwrap().unwrap();
        let inner = value.list("must be a list").unwrap().remove(0);
        assert_eq!(inner.text("must be a text").unwrap_err().to_string(), "x[0] must be a text");
        for json in ["[]", "1", "null", "\"a\""] {
            assert_eq!(Members::parse(json).err(), Some(RequestError::NotAnObject), "{json}");
        }
    }
}
