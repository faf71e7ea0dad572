//! Expressions and claims → verdicts, for each way that a token's numbers may be read.
//!
//! Whether Google's service reads JSON numbers as `int` or as `double` is not documented: both are evaluated, and
//! where they differ there is no verdict.

use serde::Serialize;
use serde_json::Value;

use super::cel::{self, Activation, Expr, NumberReading, Reason, Stop, Undecided};
use super::mapping::AttributeMapping;

/// What a condition, or a clause of it, comes to. Only [`Verdict::True`] lets a token through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be evaluated: a claim is missing, or has the wrong type.
    NotEvaluable,
    /// It is not known what Google's service decides.
    Undecided,
}

/// A verdict, and its reason if it is neither true nor false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// What cannot be evaluated, or why there is no verdict.
    pub why: Option<String>,
    /// The kind of reason of [`Verdict::Undecided`].
    pub undecided: Option<Undecided>,
}

/// What `expr` comes to on `claims`.
pub(super) fn decide(expr: &Expr, mapping: Option<&AttributeMapping>, claims: &Value) -> Decision {
    let mut evaluations = Vec::new();
    for reading in readings(claims) {
        let evaluation = evaluation(expr, mapping, claims, reading);
        if let Some(undecided) = evaluation.undecided() {
            return undecided;
        }
        evaluations.push((reading, evaluation));
    }
    let agree = evaluations.windows(2).all(|pair| match pair {
        [(_, a), (_, b)] => a.verdict() == b.verdict(),
        _ => true,
    });
    match evaluations.first() {
        Some((_, evaluation)) if agree => evaluation.clone().decision(),
        _ => differing(&evaluations),
    }
}

fn evaluation(
    expr: &Expr,
    mapping: Option<&AttributeMapping>,
    claims: &Value,
    reading: NumberReading,
) -> Evaluation {
    let assertion = cel::Value::from_json(claims, reading);
    match mapping.map(|mapping| mapping.apply(&assertion)).transpose() {
        Ok(mapped) => Evaluation::of(cel::evaluate(expr, &Activation { assertion, mapped })),
        // Google rejects a token whose attributes cannot be mapped.
        Err(stop) => Evaluation::of(Err(stop)),
    }
}

/// What an expression comes to if numbers are read in one way.
#[derive(Clone)]
enum Evaluation {
    Bool(bool),
    Error(String),
    Undecided(Undecided),
}

impl Evaluation {
    fn of(result: Result<cel::Value, Stop>) -> Self {
        match result {
            Ok(cel::Value::Bool(verdict)) => Self::Bool(verdict),
            Ok(_) => Self::Error("the result is neither true nor false".to_owned()),
            Err(Stop::Error(error) | Stop::Fatal(error)) => Self::Error(error.message),
            Err(Stop::Undecided(why)) => Self::Undecided(why),
        }
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Bool(true) => Verdict::True,
            Self::Bool(false) => Verdict::False,
            Self::Error(_) => Verdict::NotEvaluable,
            Self::Undecided(_) => Verdict::Undecided,
        }
    }

    fn undecided(&self) -> Option<Decision> {
        matches!(self, Self::Undecided(_)).then(|| self.clone().decision())
    }

    fn decision(self) -> Decision {
        let verdict = self.verdict();
        match self {
            Self::Bool(_) => Decision { verdict, why: None, undecided: None },
            Self::Error(message) => Decision { verdict, why: Some(message), undecided: None },
            Self::Undecided(why) => Decision { verdict, why: Some(why.to_string()), undecided: Some(why) },
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Bool(verdict) => format!("it is {verdict}"),
            Self::Error(message) => format!("it cannot be evaluated ({message})"),
            Self::Undecided(why) => format!("it is undecided ({why})"),
        }
    }
}

fn differing(evaluations: &[(NumberReading, Evaluation)]) -> Decision {
    let each = evaluations.iter().map(|(reading, evaluation)| {
        let name = match reading {
            NumberReading::Int => "int",
            NumberReading::Uint => "int and uint",
            NumberReading::Double => "double",
        };
        format!("as {name} {}", evaluation.words())
    });
    let each: Vec<String> = each.collect();
    let message = format!(
        "it is not settled how Google reads numbers of a token: {}; write int(…) or double(…) around the claim",
        each.join(", ")
    );
    Evaluation::Undecided(Undecided { reason: Reason::NumberReading, message }).decision()
}

/// The ways to read the numbers in `claims` that can make a difference.
fn readings(claims: &Value) -> Vec<NumberReading> {
    fn numbers(value: &Value, integers: &mut bool, beyond: &mut bool) {
        match value {
            Value::Number(number) => {
                *integers |= number.is_i64();
                *beyond |= number.is_u64() && !number.is_i64();
            }
            Value::Array(items) => items.iter().for_each(|item| numbers(item, integers, beyond)),
            Value::Object(members) => members.values().for_each(|value| numbers(value, integers, beyond)),
            _ => {}
        }
    }
    let (mut integers, mut beyond) = (false, false);
    numbers(claims, &mut integers, &mut beyond);
    let mut readings = vec![NumberReading::Double];
    if integers || beyond {
        readings.insert(0, NumberReading::Int);
    }
    if beyond {
        readings.insert(1, NumberReading::Uint);
    }
    readings
}
