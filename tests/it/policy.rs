//! Attribute conditions against the claims of real tokens, and `codeseal policy` as it is called.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use codeseal::attestation::{Claims, Profile};
use codeseal::policy::conditions::{Images, Workload, codelab, hardened};
use codeseal::policy::{ClauseVerdict, Condition, Verdict, what_if};
use codeseal::policy::{Command, Image, ImageError, Set};
use serde_json::{Value, json};

use crate::harness::clean;

const PROFILES: [Profile; 4] = [Profile::ShieldedPreview, Profile::Sev, Profile::Tdx, Profile::TdxH100];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn claims(profile: Profile) -> Value {
    let sample = fs::read_to_string(path("tests/vectors/claims").join(format!("{profile}.json"))).unwrap();
    serde_json::from_str(&sample).unwrap()
}

/// What a company would release the key to, read off the claims of a good workload.
fn workload(claims: &Value) -> Workload {
    let text = |pointer: &str| claims.pointer(pointer).unwrap().as_str().unwrap();
    Workload {
        images: Images::Digests(vec![text("/submods/container/image_digest").parse().unwrap()]),
        image_reference: Some(text("/submods/container/image_reference").parse().unwrap()),
        service_account: text("/google_service_accounts/0").parse().unwrap(),
    }
}

fn judged(condition: &Condition, claims: &Value) -> Vec<ClauseVerdict> {
    condition.clause_by_clause(claims)
}

/// One claim changed: which, how, and the clause that has to notice.
struct Mutation {
    what: String,
    clause: usize,
    claims: Value,
}

/// Derives every single mutation of the claims that a condition mentions.
///
/// A claim that its clause allows to be absent (`!has(…)`) may be absent or null; nothing else is left out.
fn mutations(condition: &Condition, good: &Value) -> Vec<Mutation> {
    let clauses = judged(condition, good);
    let mut found = Vec::new();
    for pointer in leaves(condition, good) {
        let dotted = pointer.trim_start_matches('/').replace('/', ".");
        let mentions = |clause: &&ClauseVerdict| {
            let text = &clause.clause;
            let path = dotted.replace(".0", "");
            text.contains(&format!("assertion.{path}"))
                || path.rsplit_once('.').is_some_and(|(parent, name)| {
                    text.contains(&format!("assertion.{parent}")) && text.contains(&format!(".{name} "))
                })
        };
        let noticing: Vec<usize> = clauses
            .iter()
            .enumerate()
            .filter(|(_, clause)| mentions(clause))
            .map(|(index, _)| index)
            .collect();
        let [clause] = noticing.as_slice() else { panic!("{pointer} is mentioned by {noticing:?}") };
        let may_be_absent = clauses[*clause].clause.contains("!has(");
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let mut changes: Vec<(String, Option<Value>)> = Vec::new();
        if !may_be_absent {
            changes.push(("removed".into(), None));
        }
        let others = [
            Value::Null,
            json!(true),
            json!(false),
            json!(0),
            json!(""),
            json!("other"),
            json!([]),
            json!(["other"]),
            json!({}),
            json!({"other": "other"}),
        ];
        let near = good.pointer(&pointer).and_then(Value::as_str).map(|text| {
            [text.to_lowercase(), format!("{text} "), format!("x{text}"), text.chars().skip(1).collect()]
                .map(Value::from)
        });
        for value in others.into_iter().chain(near.into_iter().flatten()) {
            let changes_nothing =
                good.pointer(&pointer) == Some(&value) || (may_be_absent && value.is_null());
            if !changes_nothing {
                changes.push((value.to_string(), Some(value)));
            }
        }
        for (how, value) in changes {
            let mut claims = good.clone();
            match claims.pointer_mut(parent).unwrap() {
                Value::Object(object) => match value {
                    Some(value) => drop(object.insert(name.to_owned(), value)),
                    None => drop(object.remove(name)),
                },
                Value::Array(array) => match value {
                    Some(value) => array[name.parse::<usize>().unwrap()] = value,
                    None => drop(array.remove(name.parse::<usize>().unwrap())),
                },
                other => panic!("{other}"),
            }
            found.push(Mutation { what: format!("{pointer} {how}"), clause: *clause, claims });
        }
    }
    found
}

/// The claims that the condition mentions, down to single values.
fn leaves(condition: &Condition, claims: &Value) -> BTreeSet<String> {
    fn descend(pointer: String, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            // Other members of a list of one do no harm: only what was asked for is looked at.
            Value::Array(items) if pointer.ends_with("/tdx") || pointer.ends_with("/gpus") => {
                items.iter().enumerate().for_each(|(i, item)| descend(format!("{pointer}/{i}"), item, found));
            }
            Value::Object(members) => {
                for name in
                    ["gcp_attester_tcb_status", "hwmodel"].iter().filter(|name| members.contains_key(**name))
                {
                    found.insert(format!("{pointer}/{name}"));
                }
            }
            _ => {
                found.insert(pointer);
            }
        }
    }
    let mut found = BTreeSet::new();
    for looked in condition.looked_at(claims) {
        let pointer = format!("/{}", looked.path.replace('.', "/"));
        match looked.value {
            Some(value) => descend(pointer, &value, &mut found),
            // The clause allows it to be absent; it can still be there and wrong.
            None if claims.pointer(pointer.rsplit_once('/').unwrap().0).is_some_and(Value::is_object) => {
                found.insert(pointer);
            }
            None => {}
        }
    }
    found
}

/// Every mutation changes the verdict of exactly the clause that is about it, and of the whole.
fn assert_every_mutation_is_noticed(name: &str, text: &str, good: &Value) -> usize {
    let condition = Condition::parse(text).unwrap();
    let clauses = judged(&condition, good);
    assert!(
        clauses.len() > 4 && clauses.iter().all(|clause| clause.verdict == Verdict::True),
        "{name}: {clauses:#?}"
    );
    assert_eq!(condition.check(good), Ok(()));
    let mutations = mutations(&condition, good);
    for mutation in &mutations {
        assert!(condition.check(&mutation.claims).is_err(), "{name}: {}", mutation.what);
        for (index, clause) in judged(&condition, &mutation.claims).iter().enumerate() {
            let holds = clause.verdict == Verdict::True;
            assert_eq!(holds, index != mutation.clause, "{name}: {}: {}", mutation.what, clause.clause);
        }
    }
    let noticing: BTreeSet<usize> = mutations.iter().map(|mutation| mutation.clause).collect();
    assert_eq!(noticing.len(), clauses.len(), "{name}: a clause that nothing changes says nothing");
    mutations.len()
}

#[test]
fn every_single_mutation_of_every_sample_fails_exactly_the_clause_about_it() {
    for profile in PROFILES {
        let good = claims(profile);
        let hardened = hardened(profile, &workload(&good)).unwrap();
        let count = assert_every_mutation_is_noticed(profile.as_str(), &hardened, &good);
        assert!(count >= 20, "{profile}: {count}");
        let codelab = codelab(profile, &workload(&good)).unwrap();
        let count = assert_every_mutation_is_noticed(profile.as_str(), &codelab, &good);
        assert!(count >= 20, "{profile}, codelab: {count}");
    }
}

#[test]
fn both_spellings_of_the_tdx_claim_are_evaluated_alike() {
    for profile in [Profile::Tdx, Profile::TdxH100] {
        let mut other = claims(profile);
        other["tdx"] = match other["tdx"].take() {
            Value::Array(mut list) => list.remove(0),
            object => json!([object]),
        };
        let text = hardened(profile, &workload(&other)).unwrap();
        assert!(assert_every_mutation_is_noticed(profile.as_str(), &text, &other) >= 20);
        let condition = Condition::parse(&text).unwrap();
        let old = json!([{"gcp_attester_tcb_status": "UpToDate"}, {"gcp_attester_tcb_status": "OutOfDate"}]);
        for wrong in [json!([]), json!({}), json!(["UpToDate"]), old, Value::Null] {
            other["tdx"] = wrong;
            assert!(condition.check(&other).is_err(), "{}", other["tdx"]);
        }
    }
}

/// The workload checks itself by [`Profile::check`]; a condition that says something else would be found out late.
#[test]
fn the_hardened_condition_and_the_workloads_own_check_agree() {
    let own = |profile: Profile, claims: &Value| {
        serde_json::from_value::<Claims>(claims.clone()).is_ok_and(|claims| profile.check(&claims).is_ok())
    };
    // What the condition asks for beyond the profile: which image, and whose.
    let about_the_workload = ["image_digest", "image_reference", "google_service_accounts"];
    for profile in PROFILES {
        let good = claims(profile);
        let condition = Condition::parse(&hardened(profile, &workload(&good)).unwrap()).unwrap();
        assert!(own(profile, &good));
        for mutation in mutations(&condition, &good) {
            if !about_the_workload.iter().any(|name| mutation.what.contains(name)) {
                assert!(!own(profile, &mutation.claims), "{profile}: {}", mutation.what);
            }
        }
        for other in PROFILES.into_iter().filter(|&other| other != profile) {
            let claims = claims(other);
            let released = condition.check(&claims).is_ok();
            assert_eq!(released, own(profile, &claims), "{profile} for {other}");
        }
    }
}

#[test]
fn the_hardened_condition_refuses_every_what_if_and_the_codelabs_does_not() {
    for profile in PROFILES {
        let good = claims(profile);
        let ask = |text: &str| what_if::evaluate(&Condition::parse(text).unwrap(), &good);
        let signed = "an image without a signature";
        for answer in ask(&hardened(profile, &workload(&good)).unwrap()) {
            assert_eq!(answer.released, answer.what == signed, "{profile}: {}", answer.what);
            assert_eq!(answer.failed.is_empty(), answer.released);
        }
        let released: Vec<_> = ask(&codelab(profile, &workload(&good)).unwrap())
            .into_iter()
            .filter(|answer| answer.released)
            .map(|answer| answer.what)
            .collect();
        for what in ["a debug image of the VM", "secure boot disabled", "arguments from the operator"] {
            assert!(released.contains(&what), "{profile}: {released:?}");
        }
    }
}

#[test]
fn an_image_may_be_named_by_two_digests_or_by_who_signed_it() {
    let good = claims(Profile::TdxH100);
    let other = format!("sha256:{}", "0".repeat(64));
    let mut workload = workload(&good);
    let Images::Digests(digests) = &mut workload.images else { panic!() };
    digests.insert(0, other.parse().unwrap());
    let condition = Condition::parse(&hardened(Profile::TdxH100, &workload).unwrap()).unwrap();
    let with = |pointer: &str, value: &str| {
        let mut claims = good.clone();
        *claims.pointer_mut(pointer).unwrap() = value.into();
        claims
    };
    let digest = "/submods/container/image_digest";
    assert!(condition.check(&good).is_ok() && condition.check(&with(digest, &other)).is_ok());
    assert!(condition.check(&with(digest, &other.replace('0', "1"))).is_err());

    let id = good.pointer("/submods/container/image_signatures/0/key_id").unwrap().as_str().unwrap();
    workload.images = Images::SignedBy(vec![format!("ECDSA_P256_SHA256:{id}").parse().unwrap()]);
    let condition = Condition::parse(&hardened(Profile::TdxH100, &workload).unwrap()).unwrap();
    assert!(condition.check(&good).is_ok() && condition.check(&with(digest, &other)).is_ok());
    let signature = "/submods/container/image_signatures/0";
    assert!(condition.check(&with(&format!("{signature}/key_id"), &"0".repeat(64))).is_err());
    assert!(
        condition.check(&with(&format!("{signature}/signature_algorithm"), "RSASSA_PSS_SHA256")).is_err()
    );
    assert!(condition.check(&claims(Profile::Tdx)).is_err(), "that image is not signed");
}

/// A configuration in the form of `tests/vectors/dockerfiles/rows.json`.
fn configuration(image: &Image) -> Value {
    let sorted = |mut values: Vec<String>| {
        values.sort();
        values
    };
    let words =
        |command: &Option<Set<Command>>| command.as_ref().map_or(vec![], |set| set.value.words().to_vec());
    json!({
        "labels": image.labels.iter().map(|(name, set)| (name, &set.value)).collect::<BTreeMap<_, _>>(),
        "env": sorted(image.env.iter().map(|(name, set)| format!("{name}={}", set.value)).collect()),
        "user": image.user.as_ref().map_or("", |set| set.value.as_str()),
        "ports": sorted(image.ports.iter().map(|set| set.value.clone()).collect()),
        "entrypoint": words(&image.entrypoint),
        "cmd": words(&image.cmd),
    })
}

/// Cases for which the lint says that the configuration cannot be determined.
const UNDETERMINED: &[&str] =
    &["entrypoint-surrogate", "stage-two-of-one-name", "stage-two-of-one-name-chained"];

/// How the lint's reading is not what a builder made. `None`: the same configuration, or both refuse.
fn differs(made: &Value, read: &Result<Image, ImageError>) -> Option<String> {
    // Where there is no such stage, both looked for an image of that name.
    let is_missing =
        |error: &str| ["no registry here", "image not known"].iter().any(|end| error.ends_with(end));
    match read {
        Ok(image) if image.base.is_some() => (!made["error"].as_str().is_some_and(is_missing))
            .then(|| format!("read {:?}, made {made}", image.base)),
        Ok(image) => {
            let read = configuration(image);
            (read != made["config"]).then(|| format!("read {read}, made {made}"))
        }
        Err(error) => made["error"].is_null().then(|| format!("{error}, made {made}")),
    }
}

#[test]
fn dockerfiles_are_read_as_buildkit_and_buildah_read_them() {
    let rows = fs::read_to_string(path("tests/vectors/dockerfiles/rows.json")).unwrap();
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let rows = rows["rows"].as_array().unwrap();
    assert!(rows.len() >= 120, "{}", rows.len());
    let (mut wrong, mut undetermined, mut differing) = (Vec::new(), BTreeSet::new(), 0);
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let arguments = serde_json::from_value(row["arguments"].clone()).unwrap();
        let mut hold = |builder: &str, made: &Value, read: &Result<Image, ImageError>| {
            if matches!(read, Err(ImageError::Unknown { .. })) {
                undetermined.insert(name.to_owned());
            } else {
                wrong.extend(differs(made, read).map(|how| format!("{name}, {builder}: {how}")));
            }
        };
        let read = Image::read(row["dockerfile"].as_str().unwrap(), &arguments);
        hold("BuildKit", &row["buildkit"], &read);
        // What BuildKit refuses is refused, whatever buildah makes of it.
        let Ok(image) = read else { continue };
        let same = Ok(Image { others: vec![], ..image.clone() });
        for (builder, member) in [("buildah", "buildah_docker"), ("buildah in OCI format", "buildah_oci")] {
            let other = |name: &str| image.others.iter().find(|other| other.builder == name);
            let docker = || other("buildah").filter(|_| row["buildah_oci"] != row["buildkit"]);
            let reading = match other(builder).or_else(docker) {
                Some(other) => other.reading.clone().map(|image| *image),
                None => same.clone(),
            };
            differing += usize::from(reading != same);
            hold(builder, &row[member], &reading);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(undetermined, UNDETERMINED.iter().map(|&name| name.to_owned()).collect());
    assert!(differing > 20, "{differing}");
}

fn codeseal(arguments: &[&str]) -> Output {
    let mut command = clean(env!("CARGO_BIN_EXE_codeseal"));
    command.arg("policy").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What the image that this repository builds lets its operator do.
#[test]
fn our_own_dockerfile_is_clean_for_both_launchers() {
    let output = codeseal(&["lint", "Dockerfile"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let preview = ["lint", "Dockerfile", "--launcher", "preview", "--json"];
    let output = codeseal(&preview);
    assert_eq!(output.status.code(), Some(1), "the preview needs root: {}", stdout(&output));
    let output = codeseal(&[&preview[..], &["--build-arg", "RUNTIME_USER=0"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["launcher"], &report["ports"]), (&json!("preview"), &json!(["8080/tcp"])));
}

#[test]
fn a_condition_is_written_and_tested_from_the_command_line() {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = claims(Profile::Sev);
    let text = |pointer: &str| good.pointer(pointer).unwrap().as_str().unwrap();
    let mut arguments = vec!["condition", "--profile", "sev"];
    arguments.extend(["--image-digest", text("/submods/container/image_digest")]);
    arguments.extend(["--image-reference", text("/submods/container/image_reference")]);
    arguments.extend(["--service-account", text("/google_service_accounts/0")]);
    let written = codeseal(&arguments);
    assert_eq!(stdout(&written).trim_end(), hardened(Profile::Sev, &workload(&good)).unwrap());
    let condition = file("condition", stdout(&written));
    let sample = file("claims", &good.to_string());
    let test = ["test", "--condition", &condition, "--claims", &sample];
    let output = codeseal(&[&test[..], &["--strict"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("\nmet: the key is released\n"));
    assert!(!stdout(&output).contains("RELEASED"));

    let codelab = file("codelab", stdout(&codeseal(&[&arguments[..], &["--codelab"]].concat())));
    let test = ["test", "--condition", &codelab, "--claims", &sample];
    assert_eq!(codeseal(&test).status.code(), Some(0));
    let strict = codeseal(&[&test[..], &["--strict"]].concat());
    assert_eq!(strict.status.code(), Some(1));
    assert!(stdout(&strict).contains("RELEASED  a debug image of the VM"), "{}", stdout(&strict));
    let other = file("other", &claims(Profile::Tdx).to_string());
    assert_eq!(codeseal(&["test", "--condition", &codelab, "--claims", &other]).status.code(), Some(1));
}

/// 0: notes at most. 1: a warning or an error. 2: what was given cannot be read, or not be determined.
#[test]
fn lint_exits_as_its_verdict_says() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("input");
    let run = "ENTRYPOINT [\"/s\"]\nUSER 1\nEXPOSE 80/tcp";
    let config = |ports: &str| {
        format!(r#"{{"config": {{"User": "1", "Cmd": ["/s"], "ExposedPorts": {{"{ports}": {{}}}}}}}}"#)
    };
    let label = "LABEL tee.launch_policy.log_redirect=always";
    for (text, code, word) in [
        (format!("FROM scratch\n{run}"), 0, "errors: 0, warnings: 0, notes: 0"),
        (config("80/tcp"), 0, "runs CMD"),
        (format!("FROM scratch\n{run}\nCOPY <<EOF /x\n{label}\nEOF"), 0, "builder-refuses"),
        (config("80/sctp"), 1, "port-refused"),
        (config("80"), 1, "port-refused"),
        (format!("FROM scratch AS a\nONBUILD {label}\nFROM a\n{run}"), 1, "log-redirect-always"),
        (format!("FROM scratch\n{run}\nEXPOSE 80/udp"), 1, "builders-differ"),
        (r#"{"schemaVersion": 2, "config": {"digest": "sha256:00"}}"#.into(), 2, "skopeo inspect --config"),
        (r#"{"schemaVersion": 2, "manifests": []}"#.into(), 2, "--override-arch amd64"),
        (r#"[{"Config": {}, "HostConfig": {}}]"#.into(), 2, "a container, not an image"),
        (r#"[{"Config": {}}, {"Config": {}}]"#.into(), 2, "these are 2 images: give one"),
        (r#"{"User": "1"}"#.into(), 2, "no image configuration"),
        (r#"{"config": {"labels": {}}}"#.into(), 2, "labels"),
        ("FROM debian\nUSER $APP_USER".into(), 2, "$APP_USER is set by the base image"),
        ("# syntax=example/frontend\nFROM scratch".into(), 2, "example/frontend"),
        ("FROM scratch\nEXPOSE http".into(), 2, "EXPOSE http"),
        ("FROM scratch\nLABEL a=${A^}".into(), 2, "line 2"),
    ] {
        fs::write(&file, &text).unwrap();
        let output = codeseal(&["lint", file.to_str().unwrap()]);
        let said = format!("{}{}", stdout(&output), std::str::from_utf8(&output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{text}: {said}");
        assert!(said.contains(word), "{text}: {said}");
    }
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let scratch = tempfile::tempdir().unwrap();
    let nonsense = scratch.path().join("nonsense");
    fs::write(&nonsense, "{").unwrap();
    let nonsense = nonsense.to_str().unwrap();
    for (arguments, word) in [
        (&["lint", "no-such-file"][..], "FILE"),
        (&["lint", nonsense], "no image configuration"),
        (&["lint", "Dockerfile", "--build-arg", "x"], "--build-arg"),
        (&["test", "--condition", nonsense, "--claims", nonsense], "--condition"),
        (&["condition", "--profile", "sev", "--image-digest", "x", "--service-account", "y"], "sha256:"),
        (
            &["condition", "--profile", "sev", "--service-account", "a@p.iam.gserviceaccount.com"],
            "--image-digest",
        ),
    ] {
        let output = codeseal(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(std::str::from_utf8(&output.stderr).unwrap().contains(word), "{arguments:?}");
    }
}
