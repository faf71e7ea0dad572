//! Types of expressions, and what can be given where what is taken.

use std::fmt;

/// The names that types have at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum TypeName {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    List,
    Map,
    Timestamp,
    Duration,
    Type,
}

impl TypeName {
    const ALL: [Self; 12] = [
        Self::Null,
        Self::Bool,
        Self::Int,
        Self::Uint,
        Self::Double,
        Self::Text,
        Self::Bytes,
        Self::List,
        Self::Map,
        Self::Timestamp,
        Self::Duration,
        Self::Type,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "map",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::Type => "type",
        }
    }

    /// The type of a plain name.
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// A type of an expression before it is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// The type of a type.
    Meta,
    /// To be found out.
    Param(usize),
}

impl Type {
    pub(super) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub(super) fn map(key: Self, value: Self) -> Self {
        Self::Map(Box::new(key), Box::new(value))
    }

    /// With the parameters of a declaration moved by `offset`, to be its own.
    pub(super) fn shifted(&self, offset: usize) -> Self {
        match self {
            Self::Param(index) => Self::Param(index + offset),
            Self::List(of) => Self::list(of.shifted(offset)),
            Self::Map(key, value) => Self::map(key.shifted(offset), value.shifted(offset)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn | Self::Param(_) => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Meta => f.write_str("type"),
        }
    }
}

/// What the parameters stand for, as far as is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings(Vec<Option<Type>>);

impl Bindings {
    /// A parameter of which nothing is known.
    pub(super) fn fresh(&mut self) -> Type {
        self.reserve(1);
        Type::Param(self.0.len() - 1)
    }

    /// Makes `count` parameters, and returns the first one's number.
    pub(super) fn reserve(&mut self, count: usize) -> usize {
        let first = self.0.len();
        self.0.resize(first + count, None);
        first
    }

    /// `of` with what is known filled in.
    pub(super) fn resolve(&self, of: &Type) -> Type {
        match of {
            Type::Param(index) => match self.0.get(*index) {
                Some(Some(bound)) => self.resolve(bound),
                _ => of.clone(),
            },
            Type::List(item) => Type::list(self.resolve(item)),
            Type::Map(key, value) => Type::map(self.resolve(key), self.resolve(value)),
            other => other.clone(),
        }
    }

    fn occurs(&self, index: usize, within: &Type) -> bool {
        match within {
            Type::Param(other) => *other == index,
            Type::List(item) => self.occurs(index, item),
            Type::Map(key, value) => self.occurs(index, key) || self.occurs(index, value),
            _ => false,
        }
    }

    /// Whether `from` can be given where `to` is taken; binds parameters on the way.
    ///
    /// A parameter that takes something more general than before stands for that from then on.
    pub(super) fn assign(&mut self, from: &Type, to: &Type) -> bool {
        let (given, _) = self.follow(from);
        let (taken, parameter) = self.follow(to);
        match (&given, &taken) {
            (Type::Param(a), Type::Param(b)) if a == b => return true,
            (other, Type::Param(index)) | (Type::Param(index), other) => return self.bind(*index, other),
            _ => {}
        }
        if let Some(parameter) = parameter {
            let (general, special) = (self.resolve(&given), self.resolve(&taken));
            if is_more_general(&general, &special) && self.assign(&taken, &given) {
                return self.bind(parameter, &given);
            }
        }
        match (&given, &taken) {
            // A timestamp or a duration may be absent.
            (Type::Dyn, _) | (_, Type::Dyn) | (Type::Null, Type::Timestamp | Type::Duration) => true,
            (Type::List(a), Type::List(b)) => self.assign(a, b),
            (Type::Map(key, value), Type::Map(other_key, other_value)) => {
                self.assign(key, other_key) && self.assign(value, other_value)
            }
            (a, b) => a == b,
        }
    }

    /// What a parameter stands for, and the last parameter on the way there.
    fn follow(&self, of: &Type) -> (Type, Option<usize>) {
        let (mut of, mut parameter) = (of.clone(), None);
        while let Type::Param(index) = of {
            match self.0.get(index) {
                Some(Some(bound)) => {
                    parameter = Some(index);
                    of = bound.clone();
                }
                _ => return (of, parameter),
            }
        }
        (of, parameter)
    }

    fn bind(&mut self, index: usize, to: &Type) -> bool {
        if self.occurs(index, &self.resolve(to)) {
            return false;
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(to.clone());
        }
        true
    }
}

/// Whether `a` takes all that `b` does, and more.
fn is_more_general(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn, other) => *other != Type::Dyn,
        (Type::Timestamp | Type::Duration, Type::Null) => true,
        (Type::List(a), Type::List(b)) => is_more_general(a, b),
        (Type::Map(key, value), Type::Map(other_key, other_value)) => {
            let (keys, values) = (is_more_general(key, other_key), is_more_general(value, other_value));
            (keys || key == other_key) && (values || value == other_value) && (keys || values)
        }
        _ => false,
    }
}
