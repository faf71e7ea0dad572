//! `codeseal policy`: what its subcommands print, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::condition::{Condition, Verdict};
use super::image::Image;
use super::lint::{Launcher, lint};
use super::what_if::{Answer, ask};

/// A subcommand of `codeseal policy`, with its files read.
pub enum PolicyCommand {
    /// Says what an image lets its operator do.
    Lint {
        /// The image.
        image: Box<Image>,
        /// Its Dockerfile, to tell what it sets from what it inherits.
        dockerfile: Option<Box<Image>>,
        /// Whose rules.
        launcher: Launcher,
        /// For programs.
        json: bool,
    },
    /// Holds claims against a condition.
    Test {
        /// The condition.
        condition: Condition,
        /// The claims.
        claims: Value,
        /// Whether no what-if may get the key either.
        strict: bool,
        /// For programs.
        json: bool,
    },
    /// Prints a condition.
    Condition(String),
}

/// A file holds no claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the name of a file with the claims of a token as a JSON object, or with a token")]
pub struct ClaimsError;

/// Claims as JSON, or those of a token, whose signature is **not** verified.
///
/// # Errors
/// [`ClaimsError`].
pub fn claims_of(text: &str) -> Result<Value, ClaimsError> {
    let text = text.trim();
    let claims: Value = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|_| ClaimsError)?
    } else {
        jsonwebtoken::dangerous::insecure_decode_claims(text).map_err(|_| ClaimsError)?
    };
    claims.is_object().then_some(claims).ok_or(ClaimsError)
}

impl PolicyCommand {
    /// Does it and says whether all is well.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub fn run(self, out: &mut dyn Write) -> io::Result<bool> {
        match self {
            Self::Lint { image, dockerfile, launcher, json } => {
                let report = lint(&image, dockerfile.as_deref(), launcher);
                if json {
                    print(out, &serde_json::to_value(&report)?)?;
                } else {
                    write!(out, "{report}")?;
                }
                Ok(report.is_clean())
            }
            Self::Test { condition, claims, strict, json } => test(&condition, &claims, strict, json, out),
            Self::Condition(text) => writeln!(out, "{text}").map(|()| true),
        }
    }
}

fn test(
    condition: &Condition,
    claims: &Value,
    strict: bool,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let (met, clauses, answers) =
        (condition.check(claims).is_ok(), condition.clause_by_clause(claims), ask(condition, claims));
    let well = met && !(strict && answers.iter().any(|answer| answer.released));
    if json {
        print(out, &json!({"met": met, "clauses": clauses, "what_if": answers}))?;
        return Ok(well);
    }
    for clause in &clauses {
        let verdict = match clause.verdict {
            Verdict::True => "true",
            Verdict::False => "FALSE",
            Verdict::NotEvaluable => "ERROR",
        };
        writeln!(out, "{verdict:<6}{}", clause.clause)?;
        if clause.verdict == Verdict::NotEvaluable {
            writeln!(out, "      a claim is missing or has the wrong type")?;
        }
    }
    writeln!(out, "{}", if met { "met: the key is released" } else { "not met: the key is not released" })?;
    if met {
        what_if(&answers, out)?;
    }
    Ok(well)
}

/// Only for claims that get the key: if those do not, neither do others, and that says nothing.
fn what_if(answers: &[Answer], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nwhat if it were")?;
    for answer in answers {
        let verdict = if answer.released { "RELEASED" } else { "refused" };
        let why = answer.failed.join("; ");
        writeln!(out, "{verdict:<9} {:<44} {why}", answer.what).map(|()| ())?;
    }
    Ok(())
}

fn print(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: PolicyCommand) -> (bool, String) {
        let mut out = Vec::new();
        let well = command.run(&mut out).unwrap();
        (well, String::from_utf8(out).unwrap())
    }

    fn tested(condition: &str, strict: bool, json: bool) -> (bool, String) {
        let condition = Condition::parse(condition).unwrap();
        let claims = json!({"secboot": true, "dbgstat": "disabled-since-boot"});
        run(PolicyCommand::Test { condition, claims, strict, json })
    }

    #[test]
    fn a_test_names_each_clause_and_who_else_would_get_the_key() {
        let (well, text) =
            tested("assertion.secboot && assertion.dbgstat == 'disabled-since-boot'", false, false);
        assert!(well, "{text}");
        assert!(text.starts_with("true  assertion.secboot\ntrue  assertion.dbgstat"), "{text}");
        assert!(text.contains("refused   secure boot disabled "), "{text}");
        assert!(text.contains("RELEASED  another operating system "), "{text}");
        let (well, text) = tested("assertion.none && !assertion.secboot", false, false);
        assert!(
            !well && text.starts_with("ERROR assertion.none\n") && text.contains("\nFALSE !assertion"),
            "{text}"
        );
        assert!(!text.contains("what if"), "{text}");
    }

    #[test]
    fn a_strict_test_fails_if_anybody_else_would_get_the_key() {
        assert!(tested("assertion.secboot", false, true).0);
        assert!(!tested("assertion.secboot", true, true).0);
        let value: Value = serde_json::from_str(&tested("assertion.secboot", true, true).1).unwrap();
        assert_eq!(value["met"], true);
        assert_eq!(value["clauses"][0], json!({"clause": "assertion.secboot", "verdict": "true"}));
        assert!(value["what_if"].as_array().is_some_and(|answers| answers.len() > 3));
    }

    #[test]
    fn claims_are_json_or_a_token() {
        assert_eq!(claims_of(" {\"a\": 1} "), Ok(json!({"a": 1})));
        assert_eq!(claims_of("eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.AA\n"), Ok(json!({"a": 1})));
        for wrong in ["", "[]", "{", "7", "a.b.c"] {
            assert_eq!(claims_of(wrong), Err(ClaimsError), "{wrong}");
        }
    }
}
