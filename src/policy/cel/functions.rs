//! The functions that conditions can call, with the types that they take.
//!
//! The standard library, and what Google documents for attribute mappings: `extract`, `split`, `join`, `lowerAscii`.

use super::types::Type;

/// One way to call a function.
pub(super) struct Overload {
    /// The receiver first, if there is one.
    pub(super) takes: Vec<Type>,
    pub(super) gives: Type,
    /// Whether it is called as `receiver.function(…)`.
    pub(super) member: bool,
}

const A: Type = Type::Param(0);
const B: Type = Type::Param(1);
/// Parameters of an overload at most.
pub(super) const PARAMETERS: usize = 2;

/// Functions of CEL's extension libraries that Google's documentation does not mention for identity federation.
const EXTENSIONS: [&str; 40] = [
    "charAt",
    "indexOf",
    "lastIndexOf",
    "substring",
    "replace",
    "trim",
    "reverse",
    "format",
    "quote",
    "upperAscii",
    "existsOne",
    "transformList",
    "transformMap",
    "transformMapEntry",
    "sortBy",
    "sort",
    "distinct",
    "flatten",
    "slice",
    "range",
    "first",
    "last",
    "lists",
    "bind",
    "block",
    "greatest",
    "least",
    "ceil",
    "floor",
    "round",
    "abs",
    "sign",
    "encode",
    "decode",
    "none",
    "of",
    "ofNonZeroValue",
    "orValue",
    "hasValue",
    "optMap",
];

/// Namespaces of extension libraries: `math.abs(1)`.
const NAMESPACES: [&str; 9] =
    ["math", "strings", "base64", "optional", "cel", "sets", "regex", "json", "proto"];

/// Whether `name` is a function of an extension.
pub(super) fn is_extension(name: &str) -> bool {
    EXTENSIONS.contains(&name)
}

/// Whether `name` is the namespace of an extension.
pub(super) fn is_namespace(name: &str) -> bool {
    NAMESPACES.contains(&name)
}

/// Every function's name.
pub(super) const NAMES: [&str; 31] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "type",
    "dyn",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "extract",
    "split",
    "join",
    "lowerAscii",
    "has",
    "exists_one",
];

/// The overloads of a function; none if there is no such function.
pub(super) fn overloads(name: &str) -> Vec<Overload> {
    let global = |takes: &[Type], gives: Type| Overload { takes: takes.to_vec(), gives, member: false };
    let member = |takes: &[Type], gives: Type| Overload { takes: takes.to_vec(), gives, member: true };
    let each = |from: &[Type], to: &Type| {
        from.iter().map(|from| global(std::slice::from_ref(from), to.clone())).collect()
    };
    let (list, map) = (Type::list(A), Type::map(A, B));
    match name {
        "size" => [Type::Text, Type::Bytes, list, map]
            .into_iter()
            .flat_map(|of| [global(std::slice::from_ref(&of), Type::Int), member(&[of], Type::Int)])
            .collect(),
        "contains" | "startsWith" | "endsWith" => vec![member(&[Type::Text, Type::Text], Type::Bool)],
        "matches" => {
            let takes = [Type::Text, Type::Text];
            vec![global(&takes, Type::Bool), member(&takes, Type::Bool)]
        }
        "type" => vec![global(&[A], Type::Meta)],
        "dyn" => vec![global(&[A], Type::Dyn)],
        "int" => each(
            &[Type::Int, Type::Uint, Type::Double, Type::Text, Type::Timestamp, Type::Duration],
            &Type::Int,
        ),
        "uint" => each(&[Type::Uint, Type::Int, Type::Double, Type::Text], &Type::Uint),
        "double" => each(&[Type::Double, Type::Int, Type::Uint, Type::Text], &Type::Double),
        "string" => each(
            &[
                Type::Text,
                Type::Int,
                Type::Uint,
                Type::Double,
                Type::Bool,
                Type::Bytes,
                Type::Timestamp,
                Type::Duration,
            ],
            &Type::Text,
        ),
        "bytes" => each(&[Type::Bytes, Type::Text], &Type::Bytes),
        "bool" => each(&[Type::Bool, Type::Text], &Type::Bool),
        "timestamp" => each(&[Type::Text, Type::Int, Type::Timestamp], &Type::Timestamp),
        "duration" => each(&[Type::Text, Type::Int, Type::Duration], &Type::Duration),
        "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek" => {
            vec![member(&[Type::Timestamp], Type::Int), member(&[Type::Timestamp, Type::Text], Type::Int)]
        }
        "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => vec![
            member(&[Type::Timestamp], Type::Int),
            member(&[Type::Timestamp, Type::Text], Type::Int),
            member(&[Type::Duration], Type::Int),
        ],
        "extract" => vec![member(&[Type::Text, Type::Text], Type::Text)],
        "split" => {
            let gives = Type::list(Type::Text);
            vec![
                member(&[Type::Text, Type::Text], gives.clone()),
                member(&[Type::Text, Type::Text, Type::Int], gives),
            ]
        }
        "join" => {
            let texts = Type::list(Type::Text);
            vec![
                member(std::slice::from_ref(&texts), Type::Text),
                member(&[texts.clone(), Type::Text], Type::Text),
            ]
        }
        "lowerAscii" => vec![member(&[Type::Text], Type::Text)],
        _ => Vec::new(),
    }
}

/// The overloads of a binary operator.
pub(super) fn operator(sign: &str) -> Vec<Overload> {
    let same = |of: &[Type]| -> Vec<Overload> {
        let of = of.iter().map(|of| Overload {
            takes: vec![of.clone(), of.clone()],
            gives: of.clone(),
            member: false,
        });
        of.collect()
    };
    let give =
        |left: Type, right: Type, gives: Type| Overload { takes: vec![left, right], gives, member: false };
    match sign {
        "==" | "!=" => vec![give(A, A, Type::Bool)],
        "<" | "<=" | ">" | ">=" => {
            let of = [
                Type::Bool,
                Type::Int,
                Type::Uint,
                Type::Double,
                Type::Text,
                Type::Bytes,
                Type::Timestamp,
                Type::Duration,
            ];
            of.into_iter().map(|of| give(of.clone(), of, Type::Bool)).collect()
        }
        "in" => vec![give(A, Type::list(A), Type::Bool), give(A, Type::map(A, B), Type::Bool)],
        "+" => {
            let mut all = same(&[
                Type::Int,
                Type::Uint,
                Type::Double,
                Type::Text,
                Type::Bytes,
                Type::list(A),
                Type::Duration,
            ]);
            all.push(give(Type::Timestamp, Type::Duration, Type::Timestamp));
            all.push(give(Type::Duration, Type::Timestamp, Type::Timestamp));
            all
        }
        "-" => {
            let mut all = same(&[Type::Int, Type::Uint, Type::Double, Type::Duration]);
            all.push(give(Type::Timestamp, Type::Timestamp, Type::Duration));
            all.push(give(Type::Timestamp, Type::Duration, Type::Timestamp));
            all
        }
        "*" | "/" => same(&[Type::Int, Type::Uint, Type::Double]),
        "%" => same(&[Type::Int, Type::Uint]),
        "[" => vec![give(Type::list(A), Type::Int, A), give(Type::map(A, B), A, B)],
        "-_" => [Type::Int, Type::Double]
            .into_iter()
            .map(|of| Overload { takes: vec![of.clone()], gives: of, member: false })
            .collect(),
        "!_" => vec![Overload { takes: vec![Type::Bool], gives: Type::Bool, member: false }],
        _ => Vec::new(),
    }
}
