//! The type checker: names, functions and the types of operands, before anything is evaluated.
//!
//! `assertion` is a map from strings to values of any type; so are `google` and `attribute`, whose members' types
//! Google does not document.

use super::ast::{BinaryOp, Expr, ExprKind, Macro};
use super::functions::{self, Overload, PARAMETERS};
use super::suggest::nearest;
use super::types::{Bindings, Type, TypeName};
use super::value::Value;
use super::{Problem, Reason, Rejected, Undecided};

/// The names that conditions can use.
const VARIABLES: [&str; 3] = ["assertion", "google", "attribute"];

/// Checks that `expr` is one that the engine takes, and that it comes to true or false.
///
/// `typed_attributes`: mapped attributes are strings, and `google.groups` a list of strings; else they may be anything.
pub(in crate::policy) fn check(expr: &Expr, typed_attributes: bool) -> Result<(), Rejected> {
    let gives = result_type(expr, typed_attributes)?;
    match gives {
        Type::Bool | Type::Dyn | Type::Param(_) => Ok(()),
        other => {
            let problem = Problem::new(
                expr.at,
                format!("the condition comes to a value of type {other}, not to true or false"),
            );
            Err(problem.hint(Some("compare it with something".to_owned())).into())
        }
    }
}

/// What a mapped attribute's expression may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum MappedKind {
    /// A string, as far as is known.
    Text,
    /// A list of strings, as far as is known.
    Texts,
    /// A value whose type is known only with the claims.
    Any,
    /// Something that is neither.
    Other,
}

/// Checks the expression of a mapped attribute.
pub(in crate::policy) fn mapped_kind(expr: &Expr) -> Result<MappedKind, Rejected> {
    Ok(match result_type(expr, false)? {
        Type::Text => MappedKind::Text,
        Type::List(item) if matches!(*item, Type::Text | Type::Dyn | Type::Param(_)) => MappedKind::Texts,
        Type::Dyn | Type::Param(_) => MappedKind::Any,
        _ => MappedKind::Other,
    })
}

/// The type that `expr` comes to.
fn result_type(expr: &Expr, typed_attributes: bool) -> Result<Type, Rejected> {
    let mut checker = Checker { bindings: Bindings::default(), scopes: Vec::new(), typed_attributes };
    let gives = checker.infer(expr)?;
    Ok(checker.bindings.resolve(&gives))
}

struct Checker {
    bindings: Bindings,
    /// Variables of the macros around, the innermost last.
    scopes: Vec<(String, Type)>,
    typed_attributes: bool,
}

type Inferred = Result<Type, Rejected>;

impl Checker {
    fn infer(&mut self, expr: &Expr) -> Inferred {
        match &expr.kind {
            ExprKind::Literal(value) => Ok(literal_type(value)),
            ExprKind::Ident { name, absolute } => self.ident(name, *absolute, expr.at),
            ExprKind::Select { operand, field } => self.select(operand, field, expr.at),
            ExprKind::Has { operand, field } => self.select(operand, field, expr.at).map(|_| Type::Bool),
            ExprKind::Index { operand, index } => {
                let given = [self.infer(operand)?, self.infer(index)?];
                self.resolve_call("[", &functions::operator("["), &given, expr.at)
            }
            ExprKind::Call { function, target, arguments } => {
                self.call(function, target.as_deref(), arguments, expr.at)
            }
            ExprKind::Not(operand) => {
                let given = [self.infer(operand)?];
                self.resolve_call("!", &functions::operator("!_"), &given, expr.at)
            }
            ExprKind::Negate(operand) => {
                let given = [self.infer(operand)?];
                self.resolve_call("-", &functions::operator("-_"), &given, expr.at)
            }
            ExprKind::Binary { op, left, right } => {
                let given = [self.infer(left)?, self.infer(right)?];
                self.binary(*op, &given, expr.at)
            }
            ExprKind::And(operands) => self.chain("&&", operands),
            ExprKind::Or(operands) => self.chain("||", operands),
            ExprKind::Conditional { condition, then, otherwise } => {
                let condition_type = self.infer(condition)?;
                let (then, otherwise) = (self.infer(then)?, self.infer(otherwise)?);
                self.boolean(&condition_type, "?:", expr.at)?;
                let result = self.bindings.fresh();
                if self.accept(&then, &result) && self.accept(&otherwise, &result) {
                    return Ok(self.bindings.resolve(&result));
                }
                Err(self.mismatch("?:", &[then, otherwise], expr.at))
            }
            ExprKind::List(items) => {
                let types = items.iter().map(|item| self.infer(item)).collect::<Result<Vec<_>, _>>()?;
                Ok(Type::list(self.join(&types)))
            }
            ExprKind::Map(entries) => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for (key, value) in entries {
                    keys.push(self.infer(key)?);
                    values.push(self.infer(value)?);
                }
                Ok(Type::map(self.join(&keys), self.join(&values)))
            }
            ExprKind::Comprehension { name, range, variable, filter, body } => {
                self.comprehension(*name, range, variable, filter.as_deref(), body)
            }
        }
    }

    /// The type of elements: that of all of them, or `dyn`.
    fn join(&mut self, types: &[Type]) -> Type {
        let mut joined = self.bindings.fresh();
        for of in types {
            if !self.accept(of, &joined) {
                joined = Type::Dyn;
            }
        }
        self.bindings.resolve(&joined)
    }

    fn ident(&mut self, name: &str, absolute: bool, at: usize) -> Inferred {
        if !absolute && let Some((_, of)) = self.scopes.iter().rev().find(|(known, _)| known == name) {
            return Ok(of.clone());
        }
        if VARIABLES.contains(&name) {
            return Ok(Type::map(Type::Text, Type::Dyn));
        }
        if name == "dyn" || TypeName::of(name).is_some() {
            return Ok(Type::Meta);
        }
        if functions::is_namespace(name) {
            return Err(undocumented(name, at));
        }
        let locals: Vec<String> = self.scopes.iter().map(|(known, _)| known.clone()).collect();
        let known =
            VARIABLES.into_iter().chain(["true", "false", "null"]).chain(locals.iter().map(String::as_str));
        let hint = nearest(name, known).map(|near| format!("did you mean `{near}`?"));
        let hint = hint.or_else(|| Some("claims are members of `assertion`".to_owned()));
        Err(Problem::new(at, format!("`{name}` is not known here")).hint(hint).into())
    }

    fn select(&mut self, operand: &Expr, field: &str, at: usize) -> Inferred {
        if let ExprKind::Ident { name, absolute } = &operand.kind
            && (*absolute || !self.scopes.iter().any(|(known, _)| known == name))
        {
            match (name.as_str(), field) {
                ("google", "subject") | ("attribute", _) if self.typed_attributes => return Ok(Type::Text),
                ("google", "groups") if self.typed_attributes => return Ok(Type::list(Type::Text)),
                ("google", "subject" | "groups") => return Ok(Type::Dyn),
                ("google", other) => {
                    let hint = nearest(other, ["subject", "groups"])
                        .map(|near| format!("did you mean `google.{near}`?"));
                    let message = format!(
                        "`google.{other}` is no attribute: there are google.subject and google.groups"
                    );
                    return Err(Problem::new(at, message).hint(hint).into());
                }
                _ => {}
            }
        }
        let of = self.infer(operand)?;
        match self.bindings.resolve(&of) {
            Type::Dyn | Type::Param(_) => Ok(Type::Dyn),
            Type::Map(_, value) => Ok(*value),
            other => {
                Err(Problem::new(at, format!("a value of type {other} has no members, such as `{field}`"))
                    .into())
            }
        }
    }

    fn call(&mut self, function: &str, target: Option<&Expr>, arguments: &[Expr], at: usize) -> Inferred {
        if let Some(ExprKind::Ident { name, .. }) = target.map(|target| &target.kind)
            && functions::is_namespace(name)
            && !self.scopes.iter().any(|(known, _)| known == name)
        {
            return Err(undocumented(&format!("{name}.{function}"), at));
        }
        let all = functions::overloads(function);
        if all.is_empty() {
            return Err(unknown_function(function, target.is_some(), at));
        }
        let count = arguments.len() + usize::from(target.is_some());
        let fitting: Vec<Overload> = all
            .into_iter()
            .filter(|overload| overload.member == target.is_some() && overload.takes.len() == count)
            .collect();
        if fitting.is_empty() {
            let forms = functions::overloads(function);
            let hint = match (target.is_some(), forms.iter().any(|form| form.member)) {
                (false, true) if forms.iter().all(|form| form.member) => {
                    Some(format!("write value.{function}(…)"))
                }
                (true, false) => Some(format!("write {function}(value)")),
                _ => None,
            };
            let message = format!(
                "{function}() is not called like this: the number of arguments or the receiver is wrong"
            );
            return Err(Problem::new(at, message).hint(hint).into());
        }
        let mut given = Vec::new();
        for argument in target.into_iter().chain(arguments) {
            given.push(self.infer(argument)?);
        }
        self.resolve_call(function, &fitting, &given, at)
    }

    fn binary(&mut self, op: BinaryOp, given: &[Type], at: usize) -> Inferred {
        self.resolve_call(op.sign(), &functions::operator(op.sign()), given, at)
    }

    fn chain(&mut self, sign: &str, operands: &[Expr]) -> Inferred {
        for operand in operands {
            let of = self.infer(operand)?;
            self.boolean(&of, sign, operand.at)?;
        }
        Ok(Type::Bool)
    }

    fn boolean(&mut self, of: &Type, sign: &str, at: usize) -> Result<(), Rejected> {
        if self.accept(of, &Type::Bool) {
            return Ok(());
        }
        let of = self.bindings.resolve(of);
        Err(Problem::new(at, format!("`{sign}` takes true or false, not a value of type {of}")).into())
    }

    fn comprehension(
        &mut self,
        name: Macro,
        range: &Expr,
        variable: &str,
        filter: Option<&Expr>,
        body: &Expr,
    ) -> Inferred {
        let of = self.infer(range)?;
        let element = match self.bindings.resolve(&of) {
            Type::List(item) => *item,
            Type::Map(key, _) => *key,
            Type::Dyn => Type::Dyn,
            other => {
                let message =
                    format!("{}() goes over a list or a map, not over a value of type {other}", name.name());
                return Err(Problem::new(range.at, message).into());
            }
        };
        self.scopes.push((variable.to_owned(), element.clone()));
        let filter_type = filter.map(|filter| self.infer(filter).map(|of| (of, filter.at))).transpose();
        let body_type = self.infer(body);
        self.scopes.pop();
        let (filter_type, body_type) = (filter_type?, body_type?);
        if let Some((of, at)) = filter_type {
            self.boolean(&of, name.name(), at)?;
        }
        if name == Macro::Map {
            return Ok(Type::list(self.bindings.resolve(&body_type)));
        }
        self.boolean(&body_type, name.name(), body.at)?;
        Ok(if name == Macro::Filter { Type::list(self.bindings.resolve(&element)) } else { Type::Bool })
    }

    /// As [`Bindings::assign`], but nothing is bound if it does not fit.
    fn accept(&mut self, from: &Type, to: &Type) -> bool {
        let mut trial = self.bindings.clone();
        let fits = trial.assign(from, to);
        if fits {
            self.bindings = trial;
        }
        fits
    }

    /// What a call gives, if its arguments fit an overload; `dyn` if they fit several that give different types.
    fn resolve_call(&mut self, name: &str, overloads: &[Overload], given: &[Type], at: usize) -> Inferred {
        let mut result: Option<Type> = None;
        for overload in overloads {
            let mut trial = self.bindings.clone();
            let offset = trial.reserve(PARAMETERS);
            let fits = given.len() == overload.takes.len()
                && given
                    .iter()
                    .zip(&overload.takes)
                    .all(|(given, takes)| trial.assign(given, &takes.shifted(offset)));
            if !fits {
                continue;
            }
            self.bindings = trial;
            let gives = overload.gives.shifted(offset);
            result = Some(match result {
                None => gives,
                Some(previous) if self.bindings.resolve(&previous) == self.bindings.resolve(&gives) => {
                    previous
                }
                Some(_) => Type::Dyn,
            });
        }
        result.map(|result| self.bindings.resolve(&result)).ok_or_else(|| self.mismatch(name, given, at))
    }

    fn mismatch(&self, name: &str, given: &[Type], at: usize) -> Rejected {
        let types: Vec<Type> = given.iter().map(|of| self.bindings.resolve(of)).collect();
        let listed = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let message = match name {
            "[" => format!("`[…]` does not take types {listed}"),
            "?:" => format!("both results of `?:` need one type, not {listed}"),
            name if name.starts_with(|c: char| c.is_alphabetic()) && name != "in" => {
                format!("{name}() does not take types {listed}")
            }
            name => format!("`{name}` does not take types {listed}"),
        };
        let numeric = |of: &Type| matches!(of, Type::Int | Type::Uint | Type::Double);
        let hint = if types.iter().all(numeric) {
            Some(
                "numbers of different types are not mixed: convert with int(…), uint(…) or double(…)"
                    .to_owned(),
            )
        } else if types.contains(&Type::Null) {
            Some("only a claim can be compared with null".to_owned())
        } else {
            None
        };
        Problem::new(at, message).hint(hint).into()
    }
}

fn literal_type(value: &Value) -> Type {
    match value.type_name() {
        TypeName::Null => Type::Null,
        TypeName::Bool => Type::Bool,
        TypeName::Int => Type::Int,
        TypeName::Uint => Type::Uint,
        TypeName::Double => Type::Double,
        TypeName::Text => Type::Text,
        TypeName::Bytes => Type::Bytes,
        TypeName::Timestamp => Type::Timestamp,
        TypeName::Duration => Type::Duration,
        TypeName::List => Type::list(Type::Dyn),
        TypeName::Map => Type::map(Type::Dyn, Type::Dyn),
        TypeName::Type => Type::Meta,
    }
}

fn unknown_function(function: &str, member: bool, at: usize) -> Rejected {
    if functions::is_extension(function) {
        return undocumented(function, at);
    }
    let hint = match function {
        "exists_one" | "all" | "exists" | "map" | "filter" => {
            Some(format!("write list.{function}(name, expression)"))
        }
        "has" => Some("write has(assertion.claim)".to_owned()),
        _ => nearest(function, functions::NAMES).map(|near| format!("did you mean `{near}`?")),
    };
    let called = if member { format!(".{function}()") } else { format!("{function}()") };
    Problem::new(at, format!("there is no function {called}")).hint(hint).into()
}

fn undocumented(function: &str, at: usize) -> Rejected {
    let message = format!(
        "`{function}` belongs to an extension of CEL; Google documents extract, split, join and lowerAscii for identity \
        federation, and not this one"
    );
    Rejected::Undecided(at, Undecided::new(Reason::UndocumentedFunction, message))
}
