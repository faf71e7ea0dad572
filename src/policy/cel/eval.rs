//! Evaluation, with the engine's rules for errors: `&&`, `||`, `all` and `exists` decide in spite of one if they can.

use std::sync::Arc;

use super::Reason;
use super::ast::{BinaryOp, Expr, ExprKind, Macro};
use super::builtins;
use super::evaluated::{Evaluated, no_overload};
use super::number;
use super::rounds::Rounds;
use super::steps::Steps;
use super::stop::{EvalError, Stop};
use super::suggest::nearest;
use super::types::TypeName;
use super::value::{Key, Map, Value, find};

/// The engine's bound on rounds of macros, all of an evaluation together.
const MAX_ROUNDS: u32 = 10_000;

/// What names stand for.
#[derive(Debug)]
pub(in crate::policy) struct Activation {
    /// The token's claims.
    pub(in crate::policy) assertion: Value,
    /// `google` and `attribute`, if there is a mapping.
    pub(in crate::policy) mapped: Option<(Value, Value)>,
}

/// Evaluates `expr`.
pub(in crate::policy) fn evaluate(expr: &Expr, activation: &Activation) -> Evaluated {
    Evaluator { activation, locals: Vec::new(), rounds: 0, steps: Steps::default() }.evaluate(expr)
}

struct Evaluator<'a> {
    activation: &'a Activation,
    locals: Vec<(&'a str, Value)>,
    rounds: u32,
    steps: Steps,
}

impl<'a> Evaluator<'a> {
    fn evaluate(&mut self, expr: &'a Expr) -> Evaluated {
        self.steps.add(1)?;
        match &expr.kind {
            ExprKind::Literal(value) => Ok(value.clone()),
            ExprKind::Ident { name, absolute } => self.ident(name, *absolute),
            ExprKind::Select { operand, field } => {
                let value = self.evaluate(operand)?;
                let Value::Map(map) = &value else { return Err(no_members(&value, field)) };
                self.steps.add(map.len() as u64 / 16)?;
                find(map, &Key::Text(field.as_str().into()))
                    .cloned()
                    .ok_or_else(|| missing(operand, field, map))
            }
            ExprKind::Has { operand, field } => {
                let value = self.evaluate(operand)?;
                let Value::Map(map) = &value else { return Err(no_members(&value, field)) };
                Ok(Value::Bool(find(map, &Key::Text(field.as_str().into())).is_some()))
            }
            ExprKind::Index { operand, index } => {
                let (container, index) = (self.evaluate(operand)?, self.evaluate(index)?);
                self.index(operand, &container, &index)
            }
            ExprKind::Call { function, target, arguments } => {
                let mut values = Vec::new();
                for argument in target.iter().map(|target| &**target).chain(arguments) {
                    values.push(self.evaluate(argument)?);
                }
                builtins::call(function, &values, &mut self.steps)
            }
            ExprKind::Not(operand) => match self.evaluate(operand)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                other => Err(no_overload("!", &[&other])),
            },
            ExprKind::Negate(operand) => number::negate(&self.evaluate(operand)?),
            ExprKind::Binary { op, left, right } => {
                let (left, right) = (self.evaluate(left)?, self.evaluate(right)?);
                self.binary(*op, &left, &right)
            }
            ExprKind::And(operands) => self.chain(operands, false),
            ExprKind::Or(operands) => self.chain(operands, true),
            ExprKind::Conditional { condition, then, otherwise } => match self.evaluate(condition)? {
                Value::Bool(true) => self.evaluate(then),
                Value::Bool(false) => self.evaluate(otherwise),
                other => Err(no_overload("?:", &[&other])),
            },
            ExprKind::List(items) => {
                let items = items.iter().map(|item| self.evaluate(item)).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::List(Arc::new(items)))
            }
            ExprKind::Map(entries) => self.map(entries),
            ExprKind::Comprehension { name, range, variable, filter, body } => {
                let range = self.evaluate(range)?;
                self.comprehension(*name, &range, variable, filter.as_deref(), body)
            }
        }
    }

    fn ident(&self, name: &str, absolute: bool) -> Evaluated {
        if !absolute && let Some((_, value)) = self.locals.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match (name, &self.activation.mapped) {
            ("assertion", _) => Ok(self.activation.assertion.clone()),
            ("google", Some((google, _))) => Ok(google.clone()),
            ("attribute", Some((_, attribute))) => Ok(attribute.clone()),
            ("google" | "attribute", None) => Err(Stop::undecided(
                Reason::AttributeMapping,
                format!("the condition uses `{name}`: give the provider's mapping with --attribute-mapping"),
            )),
            _ => TypeName::of(name)
                .map(Value::Type)
                .ok_or_else(|| Stop::error(format!("`{name}` has no value"))),
        }
    }

    fn index(&mut self, operand: &Expr, container: &Value, index: &Value) -> Evaluated {
        match container {
            Value::List(items) => {
                let position = match index {
                    Value::Int(int) => usize::try_from(*int).ok(),
                    Value::Uint(uint) => usize::try_from(*uint).ok(),
                    Value::Double(double) if double.fract() == 0.0 && (0.0..=9.0e15).contains(double) => {
                        Some(*double as usize)
                    }
                    Value::Double(double) if double.fract() == 0.0 => None,
                    other => return Err(no_overload("[…]", &[container, other])),
                };
                position.and_then(|position| items.get(position)).cloned().ok_or_else(|| {
                    Stop::error(format!(
                        "the list has {} elements, and none at the index asked for",
                        items.len()
                    ))
                })
            }
            Value::Map(map) => {
                self.steps.add(map.len() as u64 / 16)?;
                let key = Key::sought(index).map_err(|()| no_overload("[…]", &[container, index]))?;
                let found = key.as_ref().and_then(|key| find(map, key)).cloned();
                found.ok_or_else(|| match index {
                    Value::Text(field) => missing(operand, field, map),
                    _ => Stop::error("the map does not have the key asked for"),
                })
            }
            other => Err(no_overload("[…]", &[other, index])),
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &Value, right: &Value) -> Evaluated {
        match op {
            BinaryOp::Equal | BinaryOp::NotEqual => {
                self.steps.add(left.weight().min(right.weight()))?;
                Ok(Value::Bool(left.equals(right) == (op == BinaryOp::Equal)))
            }
            BinaryOp::In => match right {
                Value::List(items) => {
                    self.steps.add(right.weight())?;
                    Ok(Value::Bool(items.iter().any(|item| item.equals(left))))
                }
                Value::Map(map) => {
                    self.steps.add(map.len() as u64)?;
                    let key = Key::sought(left).map_err(|()| no_overload("in", &[left, right]))?;
                    Ok(Value::Bool(key.is_some_and(|key| find(map, &key).is_some())))
                }
                _ => Err(no_overload("in", &[left, right])),
            },
            BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::Greater | BinaryOp::GreaterEqual => {
                self.steps.add(left.weight().min(right.weight()))?;
                let order = left.compare(right).ok_or_else(|| no_overload(op.sign(), &[left, right]))?;
                Ok(Value::Bool(order.is_some_and(|order| match op {
                    BinaryOp::Less => order.is_lt(),
                    BinaryOp::LessEqual => order.is_le(),
                    BinaryOp::Greater => order.is_gt(),
                    _ => order.is_ge(),
                })))
            }
            _ => {
                if op == BinaryOp::Add {
                    self.steps.add(shallow(left) + shallow(right))?;
                }
                number::arithmetic(op, left, right)
            }
        }
    }

    /// `decisive` decides the chain; an error counts only if no operand does.
    fn chain(&mut self, operands: &'a [Expr], decisive: bool) -> Evaluated {
        let mut failed: Option<Stop> = None;
        for operand in operands {
            match self.evaluate(operand) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(other) => {
                    let sign = if decisive { "||" } else { "&&" };
                    failed.get_or_insert_with(|| no_overload(sign, &[&other]));
                }
                Err(error @ Stop::Error(_)) => {
                    failed.get_or_insert(error);
                }
                Err(stop) => return Err(stop),
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn map(&mut self, entries: &'a [(Expr, Expr)]) -> Evaluated {
        let mut pairs = Vec::new();
        for (key, value) in entries {
            pairs.push((self.evaluate(key)?, self.evaluate(value)?));
        }
        let mut map: Map = Vec::new();
        for (key, value) in pairs {
            let Some(key) = Key::of(&key) else {
                return Err(Stop::error(format!(
                    "a value of type {} cannot be a map's key",
                    key.type_name().name()
                )));
            };
            if map.iter().any(|(known, _)| *known == key) {
                // The engine does not go on, not even in `… || true`.
                return Err(Stop::Fatal(EvalError { message: "a map has one key twice".to_owned() }));
            }
            map.push((key, value));
        }
        Ok(Value::Map(Arc::new(map)))
    }

    fn comprehension(
        &mut self,
        name: Macro,
        range: &Value,
        variable: &'a str,
        filter: Option<&'a Expr>,
        body: &'a Expr,
    ) -> Evaluated {
        let items: Vec<Value> = match range {
            Value::List(items) => items.to_vec(),
            Value::Map(map) => {
                if map.len() > 1 && matches!(name, Macro::Map | Macro::Filter) {
                    return Err(Stop::undecided(
                        Reason::MapOrder,
                        format!(
                            "{}() over a map gives a list whose order is not defined: use all() or exists()",
                            name.name()
                        ),
                    ));
                }
                map.iter().map(|(key, _)| key.value()).collect()
            }
            other => return Err(no_overload(&format!("{}()", name.name()), &[other])),
        };
        self.steps.add(items.len() as u64)?;
        let mut state = Rounds::new(name);
        for item in items {
            self.rounds += 1;
            if self.rounds >= MAX_ROUNDS {
                return Err(Stop::undecided(
                    Reason::Budget,
                    format!(
                        "macros go over more than {MAX_ROUNDS} elements on these claims: make the condition simpler"
                    ),
                ));
            }
            self.locals.push((variable, item.clone()));
            let passes = filter.map(|filter| self.evaluate(filter));
            let kept = match passes {
                None | Some(Ok(Value::Bool(true))) => Some(self.evaluate(body)),
                Some(Ok(Value::Bool(false))) => None,
                Some(Ok(other)) => Some(Err(no_overload("?:", &[&other]))),
                Some(Err(stop)) => Some(Err(stop)),
            };
            self.locals.pop();
            if let Some(kept) = kept
                && state.add(kept, item)?
            {
                break;
            }
        }
        state.result()
    }
}

/// The size of what a concatenation copies.
fn shallow(value: &Value) -> u64 {
    match value {
        Value::Text(text) => text.len() as u64 / 64,
        Value::Bytes(bytes) => bytes.len() as u64 / 64,
        Value::List(items) => items.len() as u64,
        _ => 0,
    }
}

fn no_members(value: &Value, field: &str) -> Stop {
    Stop::error(format!("a value of type {} has no member `{field}`", value.type_name().name()))
}

/// A claim that is not there; near misses are named.
fn missing(operand: &Expr, field: &str, map: &Map) -> Stop {
    let names = map.iter().filter_map(|(key, _)| match key {
        Key::Text(name) => Some(&**name),
        _ => None,
    });
    let near = nearest(field, names).map(|near| format!(", but there is `{near}`")).unwrap_or_default();
    let what = match &operand.kind {
        ExprKind::Ident { name, .. } if name == "google" || name == "attribute" => {
            format!("the attribute mapping has no `{name}.{field}`")
        }
        _ => format!("the claim `{field}` is missing"),
    };
    Stop::error(format!("{what}{near}"))
}
