//! `codeseal policy`: what its subcommands print, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::annotate::{Severity, annotation};
use super::image::Image;
use super::lint::{Launcher, Level, LintReport, lint};
use super::rejected::{ConditionError, Position};
use super::report::{Judged, explain_to, print};
use super::result::{ConditionFile, Format, PolicyOutcome};

/// A subcommand of `codeseal policy`, with its files read.
pub enum PolicyCommand {
    /// Says what an image lets its operator do.
    Lint {
        /// The image.
        image: Box<Image>,
        /// The image's file, for annotations.
        file: String,
        /// Its Dockerfile, to tell what it sets from what it inherits.
        dockerfile: Option<Box<Image>>,
        /// Whose rules.
        launcher: Launcher,
        /// How it is printed.
        format: Format,
    },
    /// Holds claims against a condition.
    Test {
        /// The condition.
        condition: Box<ConditionFile>,
        /// The claims.
        claims: Value,
        /// Whether no what-if may get the key either.
        strict: bool,
        /// How it is printed.
        format: Format,
    },
    /// Says in words what a condition demands.
    Explain {
        /// The condition.
        condition: Box<ConditionFile>,
        /// Claims to hold against it.
        claims: Option<Value>,
        /// How it is printed.
        format: Format,
    },
    /// Reports a condition that cannot be used, where a program reads the report.
    Refused {
        /// The condition's file.
        file: String,
        /// What is wrong.
        error: ConditionError,
        /// How it is printed.
        format: Format,
    },
    /// Prints a condition.
    Condition(String),
}

/// A file holds no claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Neither JSON nor a token.
    #[error("must be the name of a file with the claims of a token as a JSON object, or with a token")]
    Malformed,
    /// The text starts with U+FEFF.
    #[error("the claims start with a byte-order mark (U+FEFF): save the file as UTF-8 without one")]
    ByteOrderMark,
}

/// Claims as JSON, or those of a token, whose signature is **not** verified.
///
/// # Errors
/// [`ClaimsError`].
pub fn claims_of(text: &str) -> Result<Value, ClaimsError> {
    if text.starts_with('\u{feff}') {
        return Err(ClaimsError::ByteOrderMark);
    }
    let text = text.trim();
    let claims: Value = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|_| ClaimsError::Malformed)?
    } else {
        jsonwebtoken::dangerous::insecure_decode_claims(text).map_err(|_| ClaimsError::Malformed)?
    };
    claims.is_object().then_some(claims).ok_or(ClaimsError::Malformed)
}

impl PolicyCommand {
    /// Does it and says how it ended.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub fn run(self, out: &mut dyn Write) -> io::Result<PolicyOutcome> {
        match self {
            Self::Lint { image, file, dockerfile, launcher, format } => {
                let report = lint(&image, dockerfile.as_deref(), launcher);
                match format {
                    Format::Text => write!(out, "{report}")?,
                    Format::Json => print(out, &serde_json::to_value(&report)?)?,
                    Format::Github => annotate_lint(&report, &file, out)?,
                }
                Ok(if report.is_clean() { PolicyOutcome::Good } else { PolicyOutcome::Bad })
            }
            Self::Test { condition, claims, strict, format } => {
                Judged::new(&condition.condition, &claims).print_test(&condition.name, strict, format, out)
            }
            Self::Explain { condition, claims, format } => {
                explain_to(&condition, claims.as_ref(), format, out)
            }
            Self::Refused { file, error, format } => {
                let Position { line, column } = error.place();
                match format {
                    Format::Json => {
                        print(
                            out,
                            &json!({"error": {"line": line, "column": column, "message": error.message()}}),
                        )?;
                    }
                    _ => {
                        let title = "attribute condition";
                        writeln!(
                            out,
                            "{}",
                            annotation(Severity::Error, &file, error.place(), title, &error.message())
                        )?;
                    }
                }
                Ok(PolicyOutcome::Undecided)
            }
            Self::Condition(text) => writeln!(out, "{text}").map(|()| PolicyOutcome::Good),
        }
    }
}

fn annotate_lint(report: &LintReport, file: &str, out: &mut dyn Write) -> io::Result<()> {
    for finding in &report.findings {
        let severity = match finding.level {
            Level::Error => Severity::Error,
            Level::Warning => Severity::Warning,
            Level::Note => Severity::Notice,
        };
        let place = Position { line: finding.line.unwrap_or(1), column: 1 };
        writeln!(out, "{}", annotation(severity, file, place, &finding.code, &finding.message))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Condition;

    fn run(command: PolicyCommand) -> (PolicyOutcome, String) {
        let mut out = Vec::new();
        let outcome = command.run(&mut out).unwrap();
        (outcome, String::from_utf8(out).unwrap())
    }

    fn file(condition: &str) -> Box<ConditionFile> {
        Box::new(ConditionFile {
            name: "condition.cel".into(),
            condition: Condition::parse(condition).unwrap(),
        })
    }

    fn tested(condition: &str, strict: bool, json: bool) -> (bool, String) {
        let claims = json!({"secboot": true, "dbgstat": "disabled-since-boot"});
        let format = if json { Format::Json } else { Format::Text };
        let (outcome, text) = run(PolicyCommand::Test { condition: file(condition), claims, strict, format });
        (outcome == PolicyOutcome::Good, text)
    }

    #[test]
    fn annotations_point_at_the_clause_that_fails() {
        let claims = json!({"secboot": true, "n": 1});
        let test = |condition: &str| {
            let claims = claims.clone();
            run(PolicyCommand::Test {
                condition: file(condition),
                claims,
                strict: true,
                format: Format::Github,
            })
        };
        let (outcome, text) = test("assertion.secboot &&\n  assertion.none == 'x'");
        assert_eq!(outcome, PolicyOutcome::Bad);
        assert!(
            text.starts_with("::error file=condition.cel,line=2,col=3,title=attribute condition::ERROR: "),
            "{text}"
        );
        let (outcome, text) = test("assertion.n + 1 == 2");
        assert_eq!(outcome, PolicyOutcome::Undecided);
        assert!(text.contains("UNDECIDED"), "{text}");
        let (outcome, text) = test("assertion.secboot");
        assert_eq!(outcome, PolicyOutcome::Bad);
        assert!(text.contains("::RELEASED: a debug image of the VM"), "{text}");
    }

    #[test]
    fn an_explanation_holds_claims_against_each_clause() {
        let claims = Some(json!({"secboot": true, "dbgstat": "enabled"}));
        let condition = "assertion.secboot && assertion.dbgstat == 'disabled-since-boot'";
        let explain = |claims: Option<Value>, format| {
            run(PolicyCommand::Explain { condition: file(condition), claims, format })
        };
        let (outcome, text) = explain(None, Format::Text);
        assert_eq!(outcome, PolicyOutcome::Good);
        assert!(
            text.contains(
                "  1. secure boot is on (`secboot`)\n     line 1, column 1: assertion.secboot\n  2. "
            ),
            "{text}"
        );
        let (outcome, text) = explain(claims.clone(), Format::Text);
        assert_eq!(outcome, PolicyOutcome::Bad);
        assert!(text.contains("on these claims: FALSE\n\nnot met"), "{text}");
        let value: Value = serde_json::from_str(&explain(claims, Format::Json).1).unwrap();
        assert_eq!(value["explained"][1]["line"], 1);
        assert_eq!(value["test"]["clauses"][1]["verdict"], "false");
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
            assert_eq!(claims_of(wrong), Err(ClaimsError::Malformed), "{wrong}");
        }
    }
}
