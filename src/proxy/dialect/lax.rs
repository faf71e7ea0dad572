//! Members that clients send in many types, or as null: what can be understood is, the rest is as if absent.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::BadBody;
use crate::secret::Secret;

/// A number in any type that JSON libraries make of one; anything else is as if absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Number(pub(super) Option<f64>);

/// A switch: a boolean, or a number that is not 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flag(pub(super) Option<bool>);

/// A short text that is only repeated, such as the model's name.
#[derive(Clone, Debug, Default)]
pub(super) struct Name(pub(super) Option<String>);

/// One text or a list of texts.
#[derive(Debug, Default)]
pub(super) struct Texts(pub(super) Vec<Secret<String>>);

/// A prompt: one text, or a list with one text in it.
#[derive(Debug, Default)]
pub(super) enum Prompt {
    #[default]
    Absent,
    One(Secret<String>),
    Unusable(BadBody),
}

/// A list, or nothing: null, or what is no list.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Number {
    /// As a count; negative ones (llama.cpp's and Ollama's way of saying "no bound") are as if absent.
    pub(super) fn count(self) -> Option<usize> {
        // Truncation is the point; the bound keeps it exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.0.filter(|number| (0.0..=1e9).contains(number)).map(|number| number as usize)
    }

    /// As a seed; negative ones mean a random one.
    pub(super) fn seed(self) -> Option<u64> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.0.filter(|number| (0.0..=9e15).contains(number)).map(|number| number as u64)
    }
}

/// Takes every JSON value and keeps those that `$keep` understands.
macro_rules! any {
    ($type:ty, $visitor:ident, { $($method:ident($argument:ty) => $make:expr),* $(,)? }) => {
        struct $visitor;

        impl<'de> Visitor<'de> for $visitor {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            $(fn $method<E: de::Error>(self, value: $argument) -> Result<$type, E> {
                let make: fn($argument) -> $type = $make;
                Ok(make(value))
            })*

            fn visit_unit<E: de::Error>(self) -> Result<$type, E> {
                Ok(<$type>::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<$type, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(<$type>::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(<$type>::default())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($visitor)
            }
        }
    };
}

// Tokens are far fewer than an f64 can count.
#[allow(clippy::cast_precision_loss)]
mod number {
    use super::*;

    any!(Number, AnyNumber, {
        visit_bool(bool) => |_| Number(None),
        visit_i64(i64) => |value| Number(Some(value as f64)),
        visit_u64(u64) => |value| Number(Some(value as f64)),
        visit_f64(f64) => |value| Number(Some(value).filter(|value| value.is_finite())),
        visit_str(&str) => |value| Number(value.trim().parse().ok().filter(|value: &f64| value.is_finite())),
    });
}

any!(Flag, AnyFlag, {
    visit_bool(bool) => |value| Flag(Some(value)),
    visit_i64(i64) => |value| Flag(Some(value != 0)),
    visit_u64(u64) => |value| Flag(Some(value != 0)),
    visit_f64(f64) => |value| Flag(Some(value != 0.0)),
    visit_str(&str) => |_| Flag(None),
});

any!(Name, AnyName, {
    visit_bool(bool) => |_| Name(None),
    visit_i64(i64) => |_| Name(None),
    visit_u64(u64) => |_| Name(None),
    visit_f64(f64) => |_| Name(None),
    visit_str(&str) => |value| Name(Some(value.to_owned()).filter(|value| !value.is_empty())),
});

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyTexts;

        impl<'de> Visitor<'de> for AnyTexts {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of texts, or null")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![Secret::new(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element::<Option<Secret<String>>>()? {
                    texts.extend(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(AnyTexts)
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyPrompt;

        impl<'de> Visitor<'de> for AnyPrompt {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list with one text")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Prompt, E> {
                Ok(Prompt::Absent)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::One(Secret::new(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                let mut prompt = Prompt::Absent;
                while let Some(element) = list.next_element::<Element>()? {
                    prompt = match (prompt, element) {
                        (Prompt::Absent, Element::Text(text)) => Prompt::One(text),
                        (Prompt::One(_), Element::Text(_)) => Prompt::Unusable(BadBody::ManyPrompts),
                        (unusable @ Prompt::Unusable(_), _) => unusable,
                        (_, Element::Other) => Prompt::Unusable(BadBody::TokenIds),
                    };
                }
                Ok(prompt)
            }
        }

        deserializer.deserialize_any(AnyPrompt)
    }
}

/// An element of a prompt that is a list.
#[derive(Deserialize)]
#[serde(from = "Option<ElementForm>")]
enum Element {
    Text(Secret<String>),
    Other,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ElementForm {
    Text(Secret<String>),
    Other(IgnoredAny),
}

impl From<Option<ElementForm>> for Element {
    fn from(form: Option<ElementForm>) -> Self {
        match form {
            Some(ElementForm::Text(text)) => Self::Text(text),
            Some(ElementForm::Other(_)) | None => Self::Other,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default()))
    }
}
