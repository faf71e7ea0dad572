//! Attribute conditions are decided as Google's CEL engine decides them, or not at all.
//!
//! `tests/vectors/cel/generate.py` makes the vectors with that engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use codeseal::policy::{Condition, ConditionError, Decision, Reason, Verdict};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::clean;

#[derive(Deserialize)]
struct Vectors {
    small: Value,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    expression: String,
    claims: Value,
    int: String,
    double: String,
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn sample(name: &str) -> Value {
    serde_json::from_str(
        &fs::read_to_string(path("tests/vectors/claims").join(format!("{name}.json"))).unwrap(),
    )
    .unwrap()
}

/// What this program says, in the words of the vectors; `Err` with the reason where it does not decide.
fn verdict(expression: &str, claims: &Value) -> Result<&'static str, Reason> {
    match Condition::parse(expression) {
        Err(ConditionError::Undecided { why, .. }) => Err(why.reason),
        Err(_) => Ok("error-at-compile"),
        Ok(condition) => match condition.decide(claims) {
            Decision { undecided: Some(why), .. } => Err(why.reason),
            decision => Ok(match decision.verdict {
                Verdict::True => "true",
                Verdict::False => "false",
                Verdict::NotEvaluable => "error-at-eval",
                Verdict::Undecided => panic!("{expression}: undecided without a reason"),
            }),
        },
    }
}

/// Reasons for which a vector may have no verdict although the engine has one.
const LISTED: [Reason; 9] = [
    Reason::AttributeMapping,
    Reason::UndocumentedFunction,
    Reason::ProtobufMessage,
    Reason::MapOrder,
    Reason::UnicodeTables,
    Reason::PatternBytes,
    Reason::TimeZone,
    Reason::NumberText,
    Reason::DurationText,
];

#[test]
fn every_vector_has_googles_verdict_or_a_listed_reason() {
    let vectors = fs::read_to_string(path("tests/vectors/cel/vectors.json")).unwrap();
    let vectors: Vectors = serde_json::from_str(&vectors).unwrap();
    assert!(vectors.rows.len() > 2000);
    let mut samples = BTreeMap::from([("small".to_owned(), vectors.small)]);
    let (mut wrong, mut undecided) = (Vec::new(), 0);
    for row in &vectors.rows {
        let claims = match &row.claims {
            Value::String(name) => &*samples.entry(name.clone()).or_insert_with(|| sample(name)),
            claims => claims,
        };
        let ours = verdict(&row.expression, claims);
        let holds = match ours {
            Ok(verdict) => verdict == row.int && verdict == row.double,
            Err(Reason::NumberReading) => row.int != row.double,
            Err(reason) => {
                undecided += 1;
                LISTED.contains(&reason)
            }
        };
        if !holds {
            wrong.push(format!("{:?}: {ours:?}, Google: {} or {}", row.expression, row.int, row.double));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), vectors.rows.len(), wrong.join("\n"));
    assert!(undecided * 20 < vectors.rows.len(), "{undecided} rows are not decided");
}

#[test]
fn the_documentation_lists_every_reason() {
    let documentation = fs::read_to_string(path("docs/policy.md")).unwrap();
    for reason in Reason::ALL {
        let row = format!("| `{}` |", reason.kind());
        assert!(documentation.contains(&row), "{row} is missing");
    }
}

fn decide(condition: &str, claims: &Value) -> Decision {
    Condition::parse(condition).unwrap().decide(claims)
}

#[test]
fn a_verdict_that_depends_on_how_numbers_are_read_is_none() {
    let claims = sample("tdx");
    for condition in [
        "assertion.iat + 3600 >= assertion.exp",
        "assertion.exp - 3600 == assertion.iat",
        "timestamp(assertion.exp) > timestamp('2025-01-01T00:00:00Z')",
        "type(assertion.oemid) == int",
    ] {
        let decision = decide(condition, &claims);
        assert_eq!(decision.verdict, Verdict::Undecided, "{condition}");
        let why = decision.undecided.unwrap();
        assert_eq!(why.reason, Reason::NumberReading, "{condition}");
        assert!(why.message.contains("as int it is true, as double it "), "{}", why.message);
    }
    assert_eq!(decide("-assertion.oemid < 0", &claims).verdict, Verdict::True);
    assert_eq!(decide("assertion.oemid - 1u == 11128u", &claims).verdict, Verdict::NotEvaluable);
    assert_eq!(decide("int(assertion.iat) + 3600 >= int(assertion.exp)", &claims).verdict, Verdict::True);
    assert_eq!(decide("assertion.oemid == 11129", &claims).verdict, Verdict::True);
    let huge = json!({"n": u64::MAX});
    assert_eq!(decide("assertion.n == 18446744073709551615u", &huge).verdict, Verdict::True);
    assert_eq!(decide("type(assertion.n) == uint", &huge).verdict, Verdict::Undecided);
}

/// Where, what, and the suggestion.
#[test]
fn a_mistake_is_found_before_anything_is_evaluated() {
    for (condition, line, column, words) in [
        ("asserton.x == 1 || assertion.secboot", 1, 1, "did you mean `assertion`?"),
        ("assertion.secboot &&\n  assertion.hwmodel.startswith('GCP')", 2, 31, "did you mean `startsWith`?"),
        ("1 == 'a' || assertion.secboot", 1, 3, "`==` does not take types int and string"),
        ("true ? 1 : 'a'", 1, 6, "both results"),
        ("assertion.hwmodel = 'x'", 1, 19, "`==` compares"),
        ("assertion.secboot and true", 1, 19, "`&&` means and"),
        ("assertion.hwmodel", 1, 10, ""),
        ("'x'", 1, 1, "not to true or false"),
        ("assertion.swname.matches('\\d')", 1, 27, "raw text"),
        ("assertion.a.in == 1", 1, 13, "write .`in`"),
        ("has(assertion['a'])", 1, 14, "has() takes a member"),
        ("startsWith(assertion.a, 'x')", 1, 11, "write value.startsWith(…)"),
        ("assertion.a == \u{201c}x\u{201d}", 1, 16, "quotation mark"),
    ] {
        let Err(error) = Condition::parse(condition) else {
            assert!(words.is_empty(), "{condition} is accepted");
            continue;
        };
        let place = error.place();
        assert_eq!((place.line, place.column), (line, column), "{condition}: {error}");
        assert!(error.to_string().contains(words), "{condition}: {error}");
    }
}

#[test]
fn a_missing_claim_is_named_with_the_one_that_was_meant() {
    let why = decide("assertion.secbot == true", &sample("tdx")).why.unwrap();
    assert_eq!(why, "the claim `secbot` is missing, but there is `secboot`");
}

#[test]
fn googles_bound_is_in_characters_and_lists_of_accounts_fit() {
    let accounts: Vec<String> =
        (0..30).map(|n| format!("'team-{n:02}-workload@acme-operator.iam.gserviceaccount.com'")).collect();
    let condition =
        format!("assertion.google_service_accounts.exists(account, account in [{}])", accounts.join(", "));
    assert!(Condition::parse(&condition).is_ok());
    let of = |characters: usize| format!("assertion.a == '{}'", "é".repeat(characters - 17));
    assert!(Condition::parse(&of(4096)).is_ok());
    assert_eq!(Condition::parse(&of(4097)).unwrap_err(), ConditionError::TooLong(4097));
}

#[test]
fn nested_loops_over_long_lists_end_without_a_verdict() {
    let claims = json!({"l": (0..40).collect::<Vec<_>>(), "long": vec!["x"; 200_000]});
    let nested = "assertion.l.all(a, assertion.l.all(b, assertion.l.all(c, assertion.l.all(d, true))))";
    for condition in [nested, "assertion.l.all(a, assertion.l.all(b, !('y' in assertion.long)))"] {
        let why = decide(condition, &claims).undecided.unwrap();
        assert_eq!(why.reason, Reason::Budget, "{condition}");
    }
    assert_eq!(
        decide("assertion.l.all(a, assertion.l.all(b, int(a) + int(b) >= 0))", &claims).verdict,
        Verdict::True
    );
}

#[test]
fn comments_and_literals_do_not_break_the_clauses() {
    let claims = json!({"t": true, "f": false, "s": "a && b // c"});
    let clauses = |condition: &str| {
        let clauses = Condition::parse(condition).unwrap().clause_by_clause(&claims);
        clauses.into_iter().map(|clause| (clause.clause, clause.verdict)).collect::<Vec<_>>()
    };
    assert_eq!(clauses("assertion.t // && assertion.f"), [("assertion.t".to_owned(), Verdict::True)]);
    let found = clauses(
        "(assertion.t && // first &&\n assertion.s == 'a && b // c' &&\n !(assertion.f && assertion.t))",
    );
    let expected = [
        ("assertion.t".to_owned(), Verdict::True),
        ("assertion.s == 'a && b // c'".to_owned(), Verdict::True),
        ("!(assertion.f && assertion.t)".to_owned(), Verdict::True),
    ];
    assert_eq!(found, expected);
}

fn codeseal(arguments: &[&str]) -> Output {
    let mut command = clean(env!("CARGO_BIN_EXE_codeseal"));
    command.arg("policy").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_test_says_undecided_with_its_own_exit_code() {
    let files = Files(tempfile::tempdir().unwrap());
    let claims = files.write("claims", &sample("tdx").to_string());
    let condition = files.write("condition", "assertion.iat + 3600 >= assertion.exp");
    let output = codeseal(&["test", "--condition", &condition, "--claims", &claims]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stdout).contains("\nundecided: it is not settled how Google reads numbers"),
        "{output:?}"
    );
    let output = codeseal(&["test", "--condition", &condition, "--claims", &claims, "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&value["verdict"], &value["undecided"]["reason"]),
        (&json!("undecided"), &json!("number-reading"))
    );
}

#[test]
fn a_byte_order_mark_is_said_to_be_one() {
    let files = Files(tempfile::tempdir().unwrap());
    let claims = files.write("claims", "{\"t\": true}");
    let condition = files.write("condition", "\u{feff}assertion.t");
    let output = codeseal(&["test", "--condition", &condition, "--claims", &claims]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("byte-order mark"), "{output:?}");
    let condition = files.write("condition", "assertion.t");
    let claims = files.write("claims", "\u{feff}{\"t\": true}");
    let output = codeseal(&["test", "--condition", &condition, "--claims", &claims]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("byte-order mark"), "{output:?}");
}

#[test]
fn mapped_attributes_are_evaluated_with_the_mapping() {
    let files = Files(tempfile::tempdir().unwrap());
    let claims = files.write("claims", &json!({"sub": "repo/x", "groups": ["admins"]}).to_string());
    let condition = files.write("condition", "'admins' in google.groups && attribute.name == 'x'");
    let test = ["test", "--condition", &condition, "--claims", &claims];
    let output = codeseal(&test);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("--attribute-mapping"), "{output:?}");
    let mapping = "google.subject=assertion.sub,google.groups=assertion.groups,attribute.name=assertion.sub.extract('repo/{n}')";
    let output = codeseal(&[&test[..], &["--attribute-mapping", mapping]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = codeseal(&[&test[..], &["--attribute-mapping", "google.groups=assertion.groups"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("google.subject is missing"), "{output:?}");
}

#[test]
fn a_condition_that_google_would_refuse_is_not_written() {
    let digests: Vec<String> = (0..60).map(|n| format!("sha256:{n:064x}")).collect();
    let mut arguments =
        vec!["condition", "--profile", "sev", "--service-account", "a@p.iam.gserviceaccount.com"];
    arguments.extend(digests.iter().flat_map(|digest| ["--image-digest", digest.as_str()]));
    let output = codeseal(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("4096"), "{output:?}");
}

#[test]
fn a_pipeline_gets_annotations_with_places() {
    let files = Files(tempfile::tempdir().unwrap());
    let claims = files.write("claims", &json!({"secboot": true}).to_string());
    let condition = files.write("condition", "assertion.secboot &&\n  asserton.x == 1");
    let output = codeseal(&["test", "--condition", &condition, "--claims", &claims, "--format", "github"]);
    assert_eq!(output.status.code(), Some(2));
    let expected = format!(
        "::error file={condition},line=2,col=3,title=attribute condition::`asserton` is not known here"
    );
    assert!(text(&output.stdout).starts_with(&expected), "{output:?}");
    let output = codeseal(&["explain", "--condition", &condition, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["error"]["line"], 2);
    let output = codeseal(&["lint", "Dockerfile", "--launcher", "preview", "--format", "github"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("::error file=Dockerfile,line="), "{output:?}");
}

#[test]
fn an_explanation_is_in_words() {
    let files = Files(tempfile::tempdir().unwrap());
    let claims = files.write("claims", &sample("tdx").to_string());
    let condition =
        files.write("condition", "assertion.secboot == true &&\nassertion.hwmodel == 'GCP_INTEL_TDX'");
    let output = codeseal(&["explain", "--condition", &condition]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("1. secure boot is on (`secboot`)\n"), "{output:?}");
    let output = codeseal(&["explain", "--condition", &condition, "--claims", &claims]);
    assert_eq!(output.status.code(), Some(0));
    for words in [
        "met: the key is released",
        "RELEASED  a debug image of the VM",
        "refused   secure boot disabled",
        "refused   secboot",
    ] {
        assert!(text(&output.stdout).contains(words), "{words}: {output:?}");
    }
}

/// An operand, and what it may be compared with.
fn operand() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "assertion.secboot",
        "assertion.hwmodel",
        "assertion.iat",
        "assertion.swversion",
        "assertion.submods",
        "assertion.google_service_accounts",
        "assertion.submods.container.image_digest",
        "assertion.nope",
        "assertion['iat']",
        "'GCP_INTEL_TDX'",
        "r'^\\w+$'",
        "\"é\"",
        "'''x'''",
        "b'x'",
        "1",
        "-1",
        "2u",
        "1.5",
        "true",
        "null",
        "[]",
        "['a', 1]",
        "{'a': 1}",
        "int",
        "timestamp(0)",
        "duration('1h')",
    ])
    .prop_map(str::to_owned)
}

fn condition() -> impl Strategy<Value = String> {
    let leaf = (operand(), prop::sample::select(vec!["==", "!=", "<", ">=", "in", "+", "%"]), operand())
        .prop_map(|(left, op, right)| format!("{left} {op} {right}"));
    let leaf = prop_oneof![leaf, operand()];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| parts.join(" && // and\n")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| parts.join(" || ")),
            inner.clone().prop_map(|inner| format!("!({inner})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})")),
            (operand(), inner.clone())
                .prop_map(|(list, body)| format!("{list}.exists(x, x == 'a' || {body})")),
            (operand(), inner.clone()).prop_map(|(list, body)| format!("{list}.map(x, {body}).size() > 0")),
            (operand(), operand()).prop_map(|(text, pattern)| format!("{text}.matches({pattern})")),
            (operand(), operand()).prop_map(|(map, key)| format!("{map}[{key}] == {key}")),
            inner.prop_map(|inner| format!("string({inner}).size() > 1")),
        ]
    })
}

fn claims() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e6..1e6f64).prop_map(Value::from),
        "[a-zé]{0,4}".prop_map(Value::from),
    ];
    let names = vec![
        "secboot",
        "hwmodel",
        "iat",
        "swversion",
        "submods",
        "google_service_accounts",
        "container",
        "image_digest",
    ];
    scalar.prop_recursive(3, 16, 4, move |inner| {
        let member = (prop::sample::select(names.clone()).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            prop::collection::vec(member, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Printing gives the same tree, a tree has one verdict, and clauses agree with the whole.
    #[test]
    fn conditions_print_and_decide_consistently(text in condition(), mut claims in claims()) {
        if !claims.is_object() {
            claims = json!({"hwmodel": claims});
        }
        let Ok(condition) = Condition::parse(&text) else { return Ok(()) };
        let printed = condition.printed();
        let again = Condition::parse(&printed).map_err(|error| TestCaseError::fail(format!("{printed}: {error}")))?;
        prop_assert_eq!(again.printed(), &*printed);
        let decision = condition.decide(&claims);
        prop_assert_eq!(again.decide(&claims).verdict, decision.verdict, "{}", printed);
        prop_assert_eq!(condition.check(&claims).is_ok(), decision.verdict == Verdict::True);
        let clauses = condition.clause_by_clause(&claims);
        let all = clauses.iter().all(|clause| clause.verdict == Verdict::True);
        prop_assert_eq!(decision.verdict == Verdict::True, all);
    }

    /// Whatever is read, nothing panics.
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,60}", pieces in prop::collection::vec(
        prop::sample::select(vec!["assertion", ".", "(", ")", "'", "\"", "\\", "r'", "b\"", "//", "\n", "[", "]", "{", "}", "in", "has(",
            "all(x,", "1", "u", "0x", "e5", "?", ":", "&&", "||", "!", "-", "`", "'''", "é", "\u{feff}", ".5", "=="]), 0..24)) {
        for text in [text, pieces.concat()] {
            if let Ok(condition) = Condition::parse(&text) {
                prop_assert!(Condition::parse(&condition.printed()).is_ok(), "{} from {}", condition.printed(), text);
            }
        }
    }
}
