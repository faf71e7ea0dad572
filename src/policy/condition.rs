//! The attribute condition of the workload identity provider: a CEL expression over `assertion`.
//!
//! It fails closed: a missing claim, an error and any result but `true` deny. Where it is not known what Google's
//! service decides, there is no verdict, and that denies, too.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::cel::{self, Expr, ExprKind, Reason, Rejected, Undecided};
use super::decide::{Decision, Verdict, decide};
use super::mapping::AttributeMapping;
use super::paths::{collect_paths, dotted};
use super::rejected::{ConditionError, MAX_CHARACTERS, Position, place};

/// A condition that Google's engine takes.
#[derive(Debug)]
pub struct Condition {
    text: String,
    whole: Expr,
    clauses: Vec<Clause>,
    paths: Vec<Vec<String>>,
    mapping: Option<AttributeMapping>,
}

/// Why a condition denied a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// The first clause of the condition that is not true, if it is a plain conjunction.
    pub clause: Option<String>,
    /// Whether it could not be evaluated, as when a claim is missing, rather than being false.
    pub not_evaluable: bool,
    /// Why it is not known what Google decides, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<Undecided>,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.clause.as_deref().unwrap_or("the condition"))?;
        match (&self.undecided, self.not_evaluable) {
            (Some(why), _) => write!(f, ": undecided: {why}"),
            (None, true) => f.write_str(": a claim is missing or has the wrong type"),
            (None, false) => f.write_str(": false"),
        }
    }
}

/// A claim that the condition mentions, with its value in the token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LookedAt {
    /// For example `submods.container.image_digest`.
    pub path: String,
    /// `None` if the token does not have it.
    pub value: Option<Value>,
}

/// One operand of the top-level conjunction, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseVerdict {
    /// As it is written, on one line and without comments.
    pub clause: String,
    /// What it comes to by itself.
    pub verdict: Verdict,
    /// The reason, unless it is true or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug)]
struct Clause {
    text: String,
    at: usize,
    expr: Expr,
}

impl Condition {
    /// Parses and checks `text` as Google does when a provider is made.
    ///
    /// # Errors
    /// [`ConditionError`].
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.starts_with('\u{feff}') {
            return Err(ConditionError::ByteOrderMark);
        }
        let characters = text.chars().count();
        if characters > MAX_CHARACTERS {
            return Err(ConditionError::TooLong(characters));
        }
        let whole = cel::parse(text).map_err(|rejected| ConditionError::at(text, rejected))?;
        check_attributes(&whole).map_err(|rejected| ConditionError::at(text, rejected))?;
        let clause = |expr: &Expr| {
            let text = text.get(expr.span.start..expr.span.end).unwrap_or_default();
            Clause { text: cel::tidy(text), at: expr.span.start, expr: expr.clone() }
        };
        let clauses = match &whole.kind {
            ExprKind::And(operands) => operands.iter().map(clause).collect(),
            _ => vec![clause(&whole)],
        };
        let mut paths = Vec::new();
        collect_paths(&whole, &mut Vec::new(), &mut paths);
        Ok(Self { text: text.to_owned(), whole, clauses, paths, mapping: None })
    }

    /// With the provider's attribute mapping, which `google` and `attribute` are made by.
    #[must_use]
    pub fn with_mapping(self, mapping: AttributeMapping) -> Self {
        Self { mapping: Some(mapping), ..self }
    }

    /// Holds `claims` against the condition.
    ///
    /// # Errors
    /// [`Unmet`] unless the result is exactly `true`.
    pub fn check(&self, claims: &Value) -> Result<(), Unmet> {
        let decision = self.decide(claims);
        if decision.verdict == Verdict::True {
            return Ok(());
        }
        let clause = match &self.whole.kind {
            ExprKind::Or(_) | ExprKind::Conditional { .. } => None,
            _ => self.clauses.iter().find_map(|clause| {
                let decision = self.decide_one(&clause.expr, claims);
                (decision.verdict != Verdict::True).then(|| (clause.text.clone(), decision))
            }),
        };
        let (clause, decision) = clause.map_or((None, decision), |(text, decision)| (Some(text), decision));
        Err(Unmet {
            clause,
            not_evaluable: decision.verdict == Verdict::NotEvaluable,
            undecided: decision.undecided,
        })
    }

    /// What the whole condition comes to.
    pub fn decide(&self, claims: &Value) -> Decision {
        self.decide_one(&self.whole, claims)
    }

    /// What each clause comes to by itself; the whole condition is one clause if it is no plain conjunction.
    pub fn clause_by_clause(&self, claims: &Value) -> Vec<ClauseVerdict> {
        let judge = |clause: &Clause| {
            let Decision { verdict, why, .. } = self.decide_one(&clause.expr, claims);
            ClauseVerdict { clause: clause.text.clone(), verdict, why }
        };
        self.clauses.iter().map(judge).collect()
    }

    /// The claims that the condition mentions, as `claims` has them.
    pub fn looked_at(&self, claims: &Value) -> Vec<LookedAt> {
        let find = |path: &[String]| path.iter().try_fold(claims, |value, name| value.get(name)).cloned();
        self.paths.iter().map(|path| LookedAt { path: dotted(path), value: find(path) }).collect()
    }

    /// The claims that the condition reads.
    pub(super) fn paths(&self) -> &[Vec<String>] {
        &self.paths
    }

    /// The clauses: place, text, and tree.
    pub(super) fn clauses(&self) -> impl Iterator<Item = (Position, &str, &Expr)> {
        self.clauses.iter().map(|clause| (place(&self.text, clause.at), clause.text.as_str(), &clause.expr))
    }

    fn decide_one(&self, expr: &Expr, claims: &Value) -> Decision {
        decide(expr, self.mapping.as_ref(), claims)
    }

    /// The tree as text; it parses to the same tree.
    pub fn printed(&self) -> String {
        cel::print(&self.whole)
    }
}

/// Mapped attributes are probably strings, but Google does not say how they are declared.
fn check_attributes(whole: &Expr) -> Result<(), Rejected> {
    cel::check(whole, false)?;
    match cel::check(whole, true) {
        Err(Rejected::Problem(problem)) => {
            let message = format!(
                "if mapped attributes are declared as strings, Google rejects this: {}; compare them with strings",
                problem.message
            );
            Err(Rejected::Undecided(problem.at, Undecided { reason: Reason::AttributeMapping, message }))
        }
        other => other,
    }
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
        assert_eq!(unmet, Unmet { clause: named, not_evaluable: false, undecided: None });
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
            let met = Condition::parse(condition).is_ok_and(|condition| condition.check(&json!({})).is_ok());
            assert!(!met, "{condition}");
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
        assert_eq!(unmet, Unmet { clause: None, not_evaluable: false, undecided: None });
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
        for text in [
            format!("{}true{}", "(".repeat(34), ")".repeat(34)),
            "(".repeat(4000),
            "!".repeat(4000),
            "[".repeat(4000),
            "-".repeat(4000),
            format!("assertion{}", ".a".repeat(2000)),
            format!("1{} > 0", "+1".repeat(2000)),
            format!("{}true", "true?true:".repeat(400)),
            "(assertion".to_owned(),
        ] {
            assert!(matches!(refused(text.clone()), Some(ConditionError::Invalid { .. })), "{text}");
        }
        assert_eq!(
            refused("'".repeat(MAX_CHARACTERS + 1)),
            Some(ConditionError::TooLong(MAX_CHARACTERS + 1))
        );
    }

    /// On a small stack, as that of a thread that serves requests.
    #[test]
    fn what_is_within_the_bounds_does_not_overflow_it() {
        let deepest = [
            format!("{}true{}", "(".repeat(32), ")".repeat(32)),
            format!("{}true", "!".repeat(4000)),
            format!("assertion{} == 1", ".a".repeat(30)),
            format!("{}true", "true ? true : ".repeat(31)),
            format!("1{} > 0", "+1".repeat(30)),
            format!("{}true", "true||".repeat(400)),
            format!("{}true{}", "[1].all(x, ".repeat(30), ")".repeat(30)),
            format!("{}1{} == []", "[".repeat(30), "]".repeat(30)),
        ];
        let work = move || {
            for text in deepest {
                let condition = Condition::parse(&text).unwrap();
                assert_eq!(Condition::parse(&condition.printed()).unwrap().printed(), condition.printed());
                condition.decide(&json!({"a": 1})).why.unwrap_or_default();
            }
        };
        std::thread::Builder::new().stack_size(1024 * 1024).spawn(work).unwrap().join().unwrap();
    }
}
