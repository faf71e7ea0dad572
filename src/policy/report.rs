//! Verdicts and explanations, printed for people, for programs and as annotations.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::annotate::{Severity, annotation};
use super::condition::{ClauseVerdict, Condition};
use super::decide::{Decision, Verdict};
use super::explain::explain;
use super::rejected::Position;
use super::result::{ConditionFile, Format, PolicyOutcome};
use super::what_if::{Missing, WhatIf, evaluate, evaluate_without};

/// A condition, held against claims and against those of other workloads.
pub(super) struct Judged<'a> {
    condition: &'a Condition,
    whole: Decision,
    clauses: Vec<ClauseVerdict>,
    what_if: Vec<WhatIf>,
    without: Vec<Missing>,
}

impl<'a> Judged<'a> {
    pub(super) fn new(condition: &'a Condition, claims: &Value) -> Self {
        let whole = condition.decide(claims);
        // Without a verdict on the claims themselves, those of others say nothing, and may take as long.
        let decided = whole.verdict != Verdict::Undecided;
        let what_if = if decided { evaluate(condition, claims) } else { Vec::new() };
        let without = if decided { evaluate_without(condition, claims) } else { Vec::new() };
        Self { condition, whole, clauses: condition.clause_by_clause(claims), what_if, without }
    }

    fn is_met(&self) -> bool {
        self.whole.verdict == Verdict::True
    }

    fn outcome(&self, strict: bool) -> PolicyOutcome {
        match self.whole.verdict {
            Verdict::Undecided => PolicyOutcome::Undecided,
            Verdict::False | Verdict::NotEvaluable => PolicyOutcome::Bad,
            Verdict::True if strict && self.what_if.iter().any(|answer| answer.released) => {
                PolicyOutcome::Bad
            }
            Verdict::True if strict && self.what_if.iter().any(|answer| answer.undecided) => {
                PolicyOutcome::Undecided
            }
            Verdict::True => PolicyOutcome::Good,
        }
    }

    fn json(&self) -> Value {
        json!({
            "met": self.is_met(), "verdict": self.whole.verdict, "undecided": self.whole.undecided,
            "clauses": self.clauses, "what_if": self.what_if, "without": self.without,
        })
    }

    pub(super) fn print_test(
        &self,
        file: &str,
        strict: bool,
        format: Format,
        out: &mut dyn Write,
    ) -> io::Result<PolicyOutcome> {
        match format {
            Format::Json => print(out, &self.json())?,
            Format::Github => self.annotate(file, strict, out)?,
            Format::Text => {
                for clause in &self.clauses {
                    writeln!(out, "{:<6}{}", word(clause.verdict), clause.clause)?;
                    if let Some(why) = &clause.why {
                        writeln!(out, "      {why}")?;
                    }
                }
                self.print_verdict(out)?;
                if self.is_met() {
                    self.print_what_if(out)?;
                }
            }
        }
        Ok(self.outcome(strict))
    }

    fn print_verdict(&self, out: &mut dyn Write) -> io::Result<()> {
        match (self.whole.verdict, &self.whole.why) {
            (Verdict::True, _) => writeln!(out, "met: the key is released"),
            (Verdict::Undecided, Some(why)) => writeln!(out, "undecided: {why}"),
            _ => writeln!(out, "not met: the key is not released"),
        }
    }

    /// Only for claims that get the key: if those do not, neither do others, and that says nothing.
    fn print_what_if(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\nwhat if it were")?;
        for answer in &self.what_if {
            let why = answer.failed.join("; ");
            writeln!(out, "{:<9} {:<44} {why}", release(answer.released, answer.undecided), answer.what)?;
        }
        if self.without.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nwhat if this claim were missing")?;
        for missing in &self.without {
            writeln!(out, "{:<9} {}", release(missing.released, missing.undecided), missing.claim)?;
        }
        Ok(())
    }

    fn annotate(&self, file: &str, strict: bool, out: &mut dyn Write) -> io::Result<()> {
        let title = "attribute condition";
        for (clause, (place, ..)) in self.clauses.iter().zip(self.condition.clauses()) {
            if clause.verdict == Verdict::True || self.is_met() {
                continue;
            }
            let why = clause.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("{}: {}{why}", word(clause.verdict), clause.clause);
            writeln!(out, "{}", annotation(Severity::Error, file, place, title, &message))?;
        }
        let first = Position { line: 1, column: 1 };
        for answer in
            self.what_if.iter().filter(|_| self.is_met()).filter(|answer| answer.released || answer.undecided)
        {
            let severity = if strict { Severity::Error } else { Severity::Warning };
            let message = format!("{}: {}", release(answer.released, answer.undecided), answer.what);
            writeln!(out, "{}", annotation(severity, file, first, title, &message))?;
        }
        Ok(())
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::True => "true",
        Verdict::False => "FALSE",
        Verdict::NotEvaluable => "ERROR",
        Verdict::Undecided => "UNDECIDED ",
    }
}

fn release(released: bool, undecided: bool) -> &'static str {
    match (released, undecided) {
        (true, _) => "RELEASED",
        (false, true) => "UNDECIDED",
        (false, false) => "refused",
    }
}

/// Says in words what a condition demands, and what claims make of it.
pub(super) fn explain_to(
    file: &ConditionFile,
    claims: Option<&Value>,
    format: Format,
    out: &mut dyn Write,
) -> io::Result<PolicyOutcome> {
    let explained = explain(&file.condition);
    let judged = claims.map(|claims| Judged::new(&file.condition, claims));
    match format {
        Format::Json => {
            let mut all = json!({"explained": explained});
            if let (Some(judged), Some(members)) = (&judged, all.as_object_mut()) {
                members.insert("test".to_owned(), judged.json());
            }
            print(out, &all)?;
        }
        Format::Github => {
            for clause in &explained {
                let place = Position { line: clause.line, column: clause.column };
                let message = format!("demands: {}", clause.means);
                writeln!(
                    out,
                    "{}",
                    annotation(Severity::Notice, &file.name, place, "attribute condition", &message)
                )?;
            }
            if let Some(judged) = &judged {
                judged.annotate(&file.name, false, out)?;
            }
        }
        Format::Text => {
            writeln!(out, "The key is released to a token of which all of this holds:\n")?;
            for (index, clause) in explained.iter().enumerate() {
                writeln!(out, "{:>3}. {}", index + 1, clause.means)?;
                writeln!(out, "     line {}, column {}: {}", clause.line, clause.column, clause.clause)?;
                let verdict = judged.as_ref().and_then(|judged| judged.clauses.get(index));
                if let Some(verdict) = verdict {
                    let why = verdict.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                    writeln!(out, "     on these claims: {}{why}", word(verdict.verdict).trim())?;
                }
            }
            if let Some(judged) = &judged {
                writeln!(out)?;
                judged.print_verdict(out)?;
                if judged.is_met() {
                    judged.print_what_if(out)?;
                }
            }
        }
    }
    Ok(judged.map_or(PolicyOutcome::Good, |judged| judged.outcome(false)))
}

/// As JSON.
pub(super) fn print(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
