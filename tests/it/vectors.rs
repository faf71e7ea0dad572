//! Fernet vectors from Python's `cryptography`: the same verdict on every token, and each opens the other's.
//!
//! `tests/vectors/fernet.py` makes `fernet.json` and checks `sealed.json`, `paths.py` makes `paths.json` and checks
//! `sealed_paths.json`; what is checked is written here with `UPDATE_VECTORS=1`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use codeseal::protocol::{Call, Dek, Envelope, PathKey, RequestId, Token};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Vectors<C> {
    cases: Vec<C>,
}

#[derive(Deserialize)]
struct PythonCase {
    name: String,
    key: String,
    token: String,
    plaintext: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct OurCase {
    name: String,
    key: String,
    token: String,
    plaintext: String,
}

/// What a server does with a key and a token, errors folded into one.
fn open(key: &[u8], token: &[u8]) -> Option<Vec<u8>> {
    let dek = Dek::parse(key).ok()?;
    dek.open(&Token::parse(token).ok()?).ok().map(|plaintext| plaintext.expose().clone())
}

fn python_cases() -> Vec<PythonCase> {
    serde_json::from_str::<Vectors<_>>(include_str!("../vectors/fernet.json")).unwrap().cases
}

#[test]
fn every_verdict_is_pythons() {
    let cases = python_cases();
    assert!(cases.len() > 40);
    for case in cases {
        let [key, token] = [&case.key, &case.token].map(|text| BASE64.decode(text).unwrap());
        let opened = open(&key, &token).map(|plaintext| BASE64.encode(plaintext));
        assert_eq!(opened, case.plaintext, "{}", case.name);
    }
}

#[test]
fn the_codelabs_nested_base64_reads_the_same_tokens() {
    for case in python_cases() {
        // The JSON member holds text, as `base64.b64encode(token).decode()` makes it.
        let body = serde_json::json!({"ciphertext": case.token, "wrapped_dek": "AAAA"}).to_string();
        let dek = Dek::parse(&BASE64.decode(&case.key).unwrap());
        let opened =
            Envelope::parse_generate(body.as_bytes()).ok().zip(dek.ok()).and_then(|(envelope, dek)| {
                envelope.open(&dek).ok().map(|plaintext| BASE64.encode(plaintext.expose()))
            });
        assert_eq!(opened, case.plaintext, "{}", case.name);
    }
}

#[test]
fn one_token_in_many_spellings_has_one_digest() {
    let digest = |name: &str| {
        let case = python_cases().into_iter().find(|case| case.name == name).unwrap();
        *Token::parse(&BASE64.decode(case.token).unwrap()).unwrap().digest()
    };
    let plain = digest("wrong key");
    for name in
        ["more padding", "trailing newline", "wrapped lines", "spaces", "standard alphabet", "junk bytes"]
    {
        assert_eq!(digest(name), plain, "{name}");
    }
    assert_ne!(digest("flipped hmac"), plain);
}

#[test]
fn what_we_seal_is_what_python_was_shown() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/sealed.json");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let cases: Vec<_> = python_cases().into_iter().filter_map(seal_again).collect();
        let json = serde_json::to_string_pretty(&serde_json::json!({ "cases": cases })).unwrap();
        std::fs::write(path, json + "\n").unwrap();
    }
    let cases =
        serde_json::from_str::<Vectors<OurCase>>(&std::fs::read_to_string(path).unwrap()).unwrap().cases;
    assert!(cases.len() >= 7);
    for case in cases {
        let opened =
            open(case.key.as_bytes(), case.token.as_bytes()).map(|plaintext| BASE64.encode(plaintext));
        assert_eq!(opened, Some(case.plaintext), "{}", case.name);
    }
}

/// Seals a case's plaintext under its key, as the client and the server would.
fn seal_again(case: PythonCase) -> Option<OurCase> {
    let plaintext = case.plaintext?;
    let dek = Dek::parse(&BASE64.decode(&case.key).ok()?).ok()?;
    let token = dek.seal(&BASE64.decode(&plaintext).ok()?);
    Some(OurCase { name: case.name, key: dek.to_fernet_key().expose().clone(), token, plaintext })
}

#[derive(Deserialize)]
struct PathVectors {
    dek: String,
    calls: Vec<PathCase>,
    generated: Vec<GeneratedCase>,
    buckets: Vec<Bucket>,
    padded: Vec<PaddedCall>,
}

/// The size that a call of this many bytes is padded to.
#[derive(Deserialize)]
struct Bucket {
    length: usize,
    padded: usize,
}

/// One call, padded to `length` bytes.
#[derive(Deserialize)]
struct PaddedCall {
    path: String,
    token: String,
    length: usize,
}

#[derive(Deserialize)]
struct PathCase {
    direction: String,
    path: String,
    token: String,
    plaintext: String,
}

#[derive(Deserialize)]
struct GeneratedCase {
    token: String,
    plaintext: String,
}

#[derive(Serialize, Deserialize)]
struct OurPathCase {
    dek: String,
    direction: String,
    path: String,
    token: String,
    plaintext: String,
}

fn path_vectors() -> PathVectors {
    serde_json::from_str(include_str!("../vectors/paths.json")).unwrap()
}

fn path_key(dek: &Dek, direction: &str, path: &str) -> PathKey {
    match direction {
        "request" => dek.for_requests(path),
        "answer" => dek.for_answers(path),
        other => panic!("{other} is no direction"),
    }
}

#[test]
fn pythons_path_keys_are_ours() {
    let PathVectors { dek, calls, generated, .. } = path_vectors();
    let dek = Dek::parse(dek.as_bytes()).unwrap();
    assert_eq!((calls.len(), generated.len()), (4, 4));
    for PathCase { direction, path, token, plaintext } in calls {
        let token = Token::parse(token.as_bytes()).unwrap();
        let opened = path_key(&dek, &direction, &path).open(&token).unwrap();
        assert_eq!(opened.expose(), plaintext.as_bytes(), "{direction} {path}");
        assert!(dek.open(&token).is_err(), "{direction} {path}");
    }
    for GeneratedCase { token, plaintext } in generated {
        let token = Token::parse(token.as_bytes()).unwrap();
        assert_eq!(dek.open(&token).unwrap().expose(), plaintext.as_bytes());
        assert!(dek.open_prompt(&token).is_err(), "{plaintext}");
    }
}

#[test]
fn calls_are_padded_to_pythons_buckets() {
    let cases = path_vectors().buckets;
    assert!(cases.len() >= 8);
    let id = RequestId::generate().unwrap();
    let call_of = |body: &str| {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        let call = Call { id, path: "/v1/completions", server: None, body: &body };
        (serde_json::to_vec(&call).unwrap().len(), call.encode().unwrap().expose().len())
    };
    let (least, _) = call_of("\"\"");
    for Bucket { length, padded } in cases {
        let text = "x".repeat(length.saturating_sub(least));
        let (plain, encoded) = call_of(&format!("\"{text}\""));
        assert_eq!((plain, encoded), (length.max(least), padded), "{length}");
    }
}

/// Clients of earlier versions pad less.
#[test]
fn a_call_opens_however_it_is_padded() {
    let PathVectors { dek, padded, .. } = path_vectors();
    let dek = Dek::parse(dek.as_bytes()).unwrap();
    assert!(padded.len() >= 3);
    for PaddedCall { path, token, length } in padded {
        assert_eq!(path, "/v1/completions");
        let body = serde_json::json!({ "wrapped_dek": "AAAA", "ciphertext": token }).to_string();
        let plaintext = Envelope::parse(body.as_bytes(), "/v1/completions").unwrap().open(&dek).unwrap();
        assert_eq!(plaintext.expose().len(), length);
        let call = Call::decode(plaintext.expose()).unwrap();
        assert_eq!((call.path, call.body.get()), (path.as_str(), r#"{"prompt":"x"}"#));
    }
}

#[test]
fn what_we_seal_for_a_path_is_what_python_was_shown() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/sealed_paths.json");
    let open = |dek: &Dek, case: &OurPathCase| {
        let token = Token::parse(case.token.as_bytes()).unwrap();
        if case.direction == "generated" {
            assert!(dek.open_prompt(&token).is_err());
            return dek.open(&token).unwrap();
        }
        path_key(dek, &case.direction, &case.path).open(&token).unwrap()
    };
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let PathVectors { dek: text, calls, generated, .. } = path_vectors();
        let dek = Dek::parse(text.as_bytes()).unwrap();
        let mut cases: Vec<OurPathCase> = calls
            .into_iter()
            .map(|PathCase { direction, path, plaintext, .. }| {
                let token = path_key(&dek, &direction, &path).seal(plaintext.as_bytes());
                OurPathCase { dek: text.clone(), direction, path, token, plaintext }
            })
            .collect();
        cases.extend(generated.into_iter().map(|GeneratedCase { plaintext, .. }| OurPathCase {
            dek: text.clone(),
            direction: "generated".to_owned(),
            path: "/generate".to_owned(),
            token: dek.seal_generated(plaintext.as_bytes()).unwrap(),
            plaintext,
        }));
        let json = serde_json::to_string_pretty(&serde_json::json!({ "cases": cases })).unwrap();
        std::fs::write(path, json + "\n").unwrap();
    }
    let cases: Vec<OurPathCase> =
        serde_json::from_str::<Vectors<_>>(&std::fs::read_to_string(path).unwrap()).unwrap().cases;
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let dek = Dek::parse(case.dek.as_bytes()).unwrap();
        assert_eq!(open(&dek, case).expose(), case.plaintext.as_bytes(), "{} {}", case.direction, case.path);
    }
}
