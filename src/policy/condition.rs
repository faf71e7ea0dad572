//! The attribute condition of the workload identity provider: a CEL expression over `assertion`.
//!
//! It fails closed: a missing claim, an error and any result but `true` deny.

use std::fmt;

use cel::{Context, Program, Value as Cel};
use serde::Serialize;
use serde_json::Value;

/// Google's own bound on an attribute condition, in bytes.
const MAX_BYTES: usize = 4096;
/// Bounds the parser's recursion, if each bracket is inside the one before.
const MAX_BRACKETS: usize = 32;
/// Bounds the recursion over operators and members.
const MAX_PUNCTUATION: usize = 256;
/// Unoptimised, the parser takes more than 128 KiB for a bracket and 32 KiB for an operator: too much for the
/// threads that serve requests, so expressions are handled on one of their own.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// A condition that parses.
pub struct Condition {
    text: String,
    whole: Program,
    clauses: Vec<Clause>,
    paths: Vec<String>,
}

/// Why a condition cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Longer than Google takes.
    #[error("the attribute condition is too long: {MAX_BYTES} bytes at most")]
    TooLong,
    /// Too many brackets, or too much punctuation.
    #[error(
        "the attribute condition is too complex: {MAX_BRACKETS} brackets, {MAX_PUNCTUATION} other signs at most"
    )]
    TooComplex,
    /// No thread could be had to read it on.
    #[error("the attribute condition could not be read: the system gives no more threads")]
    NoThread,
    /// No CEL expression.
    #[error("the attribute condition is not a CEL expression")]
    Syntax,
}

/// Why a condition denied a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// The first clause of the condition that is not true, if it is a plain conjunction.
    pub clause: Option<String>,
    /// Whether it could not be evaluated, as when a claim is missing, rather than being false.
    pub not_evaluable: bool,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.clause.as_deref().unwrap_or("the condition"))?;
        f.write_str(if self.not_evaluable { ": a claim is missing or has the wrong type" } else { ": false" })
    }
}

/// A claim that the condition mentions, with its value in the token at hand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LookedAt {
    /// For example `submods.container.image_digest`.
    pub path: String,
    /// `None` if the token does not have it.
    pub value: Option<Value>,
}

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
}

/// One operand of the top-level conjunction, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseVerdict {
    /// As it is written.
    pub clause: String,
    /// What it comes to by itself.
    pub verdict: Verdict,
}

struct Clause {
    text: String,
    program: Program,
}

impl Condition {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`ConditionError`].
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.len() > MAX_BYTES {
            return Err(ConditionError::TooLong);
        }
        // Counted inside of literals too: a bound must not depend on finding where a literal ends.
        let opening = text.chars().filter(|&c| "([{".contains(c)).count();
        let punctuation =
            text.chars().filter(|&c| c.is_ascii_punctuation() && !"_'\"([{)]}".contains(c)).count();
        if opening > MAX_BRACKETS || punctuation > MAX_PUNCTUATION {
            return Err(ConditionError::TooComplex);
        }
        deep(|| Self::compile(text)).ok_or(ConditionError::NoThread)?
    }

    fn compile(text: &str) -> Result<Self, ConditionError> {
        let outline = Outline::of(text);
        let compile = |text: &str| Program::compile(text).map_err(|_| ConditionError::Syntax);
        let whole = compile(text)?;
        let clauses = outline
            .clauses
            .iter()
            .map(|clause| Ok(Clause { text: clause.clone(), program: compile(clause)? }))
            .collect::<Result<_, ConditionError>>()
            .unwrap_or_default();
        Ok(Self { text: text.trim().to_owned(), whole, clauses, paths: outline.paths })
    }

    /// Holds `claims` against the condition.
    ///
    /// # Errors
    /// [`Unmet`] unless the result is exactly `true`.
    pub fn check(&self, claims: &Value) -> Result<(), Unmet> {
        deep(|| self.evaluate(claims)).unwrap_or(Err(Unmet { clause: None, not_evaluable: true }))
    }

    fn evaluate(&self, claims: &Value) -> Result<(), Unmet> {
        let verdict = evaluate(&self.whole, claims);
        if verdict == Some(true) {
            return Ok(());
        }
        for clause in &self.clauses {
            let verdict = evaluate(&clause.program, claims);
            if verdict != Some(true) {
                return Err(Unmet { clause: Some(clause.text.clone()), not_evaluable: verdict.is_none() });
            }
        }
        Err(Unmet { clause: None, not_evaluable: verdict.is_none() })
    }

    /// What each clause comes to by itself; the whole condition is one clause if it is no plain conjunction.
    pub fn clause_by_clause(&self, claims: &Value) -> Vec<ClauseVerdict> {
        let verdict = |program| match evaluate(program, claims) {
            Some(true) => Verdict::True,
            Some(false) => Verdict::False,
            None => Verdict::NotEvaluable,
        };
        let judge = |text: &String, verdict| ClauseVerdict { clause: text.clone(), verdict };
        let all = || match self.clauses.as_slice() {
            [] => vec![judge(&self.text, verdict(&self.whole))],
            clauses => clauses.iter().map(|clause| judge(&clause.text, verdict(&clause.program))).collect(),
        };
        deep(all).unwrap_or_else(|| vec![judge(&self.text, Verdict::NotEvaluable)])
    }

    /// The claims that the condition mentions, as `claims` has them.
    pub fn looked_at(&self, claims: &Value) -> Vec<LookedAt> {
        let find = |path: &str| path.split('.').try_fold(claims, |value, name| value.get(name)).cloned();
        self.paths.iter().map(|path| LookedAt { path: path.clone(), value: find(path) }).collect()
    }
}

/// Runs `work` where recursion may go deep; `None` if it cannot be run or panics.
fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.ok()?.join().ok()
    })
}

/// `None` for an error or for a result that is no truth value.
fn evaluate(program: &Program, claims: &Value) -> Option<bool> {
    let mut context = Context::default();
    context.add_variable("assertion", claims).ok()?;
    match program.execute(&context) {
        Ok(Cel::Bool(verdict)) => Some(verdict),
        _ => None,
    }
}

/// What can be seen of an expression without parsing it.
#[derive(Default)]
struct Outline {
    /// The operands of a top-level conjunction; empty where `||` or `?:` make it something else.
    clauses: Vec<String>,
    paths: Vec<String>,
}

impl Outline {
    fn of(text: &str) -> Self {
        let mut outline = Self::default();
        let (mut depth, mut conjunction, mut clause) = (0usize, true, String::new());
        let mut rest = text;
        while !rest.is_empty() {
            let token = token(rest);
            match token {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                "||" | "?" if depth == 0 => conjunction = false,
                "&&" if depth == 0 => {
                    outline.clauses.push(std::mem::take(&mut clause).trim().to_owned());
                }
                _ => {}
            }
            if let Some(path) = token.strip_prefix("assertion.") {
                outline.mention(path, rest.strip_prefix(token).is_some_and(|next| next.starts_with('(')));
            }
            if token != "&&" || depth != 0 {
                clause.push_str(token);
            }
            rest = rest.strip_prefix(token).unwrap_or_default();
        }
        outline.clauses.push(clause.trim().to_owned());
        if !conjunction {
            outline.clauses.clear();
        }
        outline
    }

    /// `called`: the last name of the path is a method, not a claim.
    fn mention(&mut self, path: &str, called: bool) {
        let path = if called { path.rsplit_once('.').map_or("", |(claim, _)| claim) } else { path };
        let path = path.trim_end_matches('.');
        if !path.is_empty() && !self.paths.iter().any(|known| known == path) {
            self.paths.push(path.to_owned());
        }
    }
}

/// The next token at the start of `text`, roughly as CEL sees it: a literal, a dotted name, an operator.
fn token(text: &str) -> &str {
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut characters = text.char_indices();
    let end = match characters.next().map(|(_, first)| first) {
        Some(quote @ ('\'' | '"')) => {
            let mut escaped = false;
            characters
                .find(|&(_, c)| {
                    let closes = c == quote && !escaped;
                    escaped = c == '\\' && !escaped;
                    closes
                })
                .map_or(text.len(), |(at, _)| at + 1)
        }
        Some(first) if name(first) => text.find(|c| !name(c)).unwrap_or(text.len()),
        Some('&') if text.starts_with("&&") => 2,
        Some('|') if text.starts_with("||") => 2,
        Some(first) => first.len_utf8(),
        None => 0,
    };
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A token's claims, as the sandbox's launcher makes them.
    fn sample(name: &str) -> Value {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/claims/");
        serde_json::from_str(&std::fs::read_to_string(format!("{directory}{name}.json")).unwrap()).unwrap()
    }

    fn check(condition: &str, claims: &Value) -> Result<(), Unmet> {
        Condition::parse(condition).unwrap().check(claims)
    }

    #[test]
    fn the_first_clause_that_fails_is_named() {
        let condition = "assertion.hwmodel == 'GCP_SHIELDED_VM' &&\n assertion.swname == 'HARDENED_SHIELDED' \
            && 'a@b' in assertion.accounts";
        let unmet = check(condition, &json!({"hwmodel": "GCP_SHIELDED_VM", "swname": "x"})).unwrap_err();
        let named = Some("assertion.swname == 'HARDENED_SHIELDED'".to_owned());
        assert_eq!(unmet, Unmet { clause: named, not_evaluable: false });
    }

    #[test]
    fn a_missing_claim_denies_and_says_so() {
        let unmet = check("true && 'a@b' in assertion.google_service_accounts", &json!({})).unwrap_err();
        assert!(unmet.not_evaluable);
        let text = unmet.to_string();
        assert!(
            text.ends_with("in assertion.google_service_accounts: a claim is missing or has the wrong type")
        );
    }

    #[test]
    fn each_clause_is_judged_by_itself() {
        let judged = |condition: &str| {
            let clauses = Condition::parse(condition).unwrap().clause_by_clause(&json!({"a": 1}));
            clauses.into_iter().map(|clause| (clause.clause, clause.verdict)).collect::<Vec<_>>()
        };
        let expected = [
            ("assertion.a == 1", Verdict::True),
            ("assertion.b == 1", Verdict::NotEvaluable),
            ("(false || assertion.a == 2)", Verdict::False),
        ];
        let expected = expected.map(|(clause, verdict)| (clause.to_owned(), verdict));
        assert_eq!(judged("assertion.a == 1 && assertion.b == 1 && (false || assertion.a == 2)"), expected);
        assert_eq!(judged(" false || true "), [("false || true".to_owned(), Verdict::True)]);
    }

    #[test]
    fn anything_but_true_denies() {
        for condition in ["false", "1", "'true'", "null", "assertion", "assertion.none", "1 / 0 == 0", "x"] {
            assert!(check(condition, &json!({})).is_err(), "{condition}");
        }
        assert_eq!(check("true", &json!({})), Ok(()));
    }

    #[test]
    fn production_conditions_evaluate() {
        let condition = "assertion.swname=='CONFIDENTIAL_SPACE' && assertion.secboot==true && \
            'STABLE' in assertion.submods.confidential_space.support_attributes && \
            !has(assertion.submods.container.cmd_override) && assertion.submods.nvidia_gpu.cc_mode=='ON' && \
            int(assertion.swversion[0]) >= 240900 && assertion.submods.container.image_reference.startsWith('us-')";
        assert_eq!(check(condition, &sample("tdx-h100")), Ok(()));
        let unmet = check(condition, &sample("tdx")).unwrap_err();
        assert_eq!(unmet.clause.as_deref(), Some("assertion.submods.nvidia_gpu.cc_mode=='ON'"));
    }

    #[test]
    fn only_a_plain_conjunction_has_clauses() {
        let unmet = check("assertion.a == 1 && true || false", &json!({"a": 2})).unwrap_err();
        assert_eq!(unmet, Unmet { clause: None, not_evaluable: false });
        let unmet = check("assertion.a == '&&' && (false || false)", &json!({"a": "&&"})).unwrap_err();
        assert_eq!(unmet.clause.as_deref(), Some("(false || false)"));
    }

    #[test]
    fn the_claims_that_a_condition_looks_at_are_listed_once() {
        let condition = Condition::parse(
            r#"assertion.a.b == 'assertion.no' && assertion.a.b.startsWith("x\"") && has(assertion.c)"#,
        )
        .unwrap();
        let looked = condition.looked_at(&json!({"a": {"b": 1}}));
        assert_eq!(
            looked,
            [
                LookedAt { path: "a.b".into(), value: Some(json!(1)) },
                LookedAt { path: "c".into(), value: None }
            ]
        );
    }

    #[test]
    fn what_could_overflow_the_stack_is_refused() {
        let refused = |text: String| Condition::parse(&text).err();
        assert_eq!(refused("(".repeat(MAX_BRACKETS + 1)), Some(ConditionError::TooComplex));
        assert_eq!(refused("!".repeat(4000)), Some(ConditionError::TooComplex));
        assert_eq!(refused(format!("a{}", ".a".repeat(2000))), Some(ConditionError::TooComplex));
        assert_eq!(refused("'".repeat(MAX_BYTES + 1)), Some(ConditionError::TooLong));
        assert_eq!(refused("(assertion".into()), Some(ConditionError::Syntax));
    }

    #[test]
    fn what_is_within_the_bounds_does_not_overflow_it() {
        let nested = format!("{}true{}", "(".repeat(MAX_BRACKETS), ")".repeat(MAX_BRACKETS));
        for text in [
            nested,
            format!("{}true", "!".repeat(MAX_PUNCTUATION)),
            format!("assertion{}", ".a".repeat(MAX_PUNCTUATION - 1)),
            format!("true{}", " ? true : true".repeat(MAX_PUNCTUATION / 2)),
            format!("1{}", "+1".repeat(MAX_PUNCTUATION)),
            format!("{}true", "true||".repeat(MAX_PUNCTUATION / 2)),
        ] {
            if let Ok(condition) = Condition::parse(&text) {
                assert!(condition.check(&json!({})).is_ok() || condition.clauses.len() < 2);
            }
        }
    }
}
