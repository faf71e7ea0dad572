//! `scripts/sign.sh`: another implementation verifies its signatures, and refuses changed ones.

use std::path::{Path, PathBuf};
use std::process::Output;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::clean;

const DIGEST: &str = "sha256:fa126b4bf1014fb4c1b6786039e483eca21d51ed960083dc8439c1d8539559ae";

/// A signer of images, with a key of its own.
struct Signer(TempDir);

impl Signer {
    fn new() -> Self {
        let signer = Self(tempfile::tempdir().unwrap());
        signer.run(&["key", "."]);
        signer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sign.sh");
        clean("bash").arg(script).args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn refuses(&self, arguments: &[&str], why: &str) {
        let output = self.try_run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(why), "{arguments:?}: {stderr}");
    }
}

fn image() -> String {
    format!("us-docker.pkg.dev/acme-primus/codeseal/inference-server@{DIGEST}")
}

/// The DER form of a key in PEM.
fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64_STANDARD.decode(text).unwrap()
}

#[test]
fn a_signature_is_good_and_says_which_image_and_which_key() {
    let signer = Signer::new();
    let key_id = signer.run(&["sign", "sign.key", &image(), "."]);
    assert_eq!(signer.run(&["verify", "sign.pub", &image(), "."]), key_id);
    let pem = std::fs::read_to_string(signer.path("sign.pub")).unwrap();
    let der = der(&pem);
    let fingerprint: String = Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(key_id, fingerprint);

    let payload = std::fs::read(signer.path("payload.json")).unwrap();
    let signature = std::fs::read_to_string(signer.path("signature")).unwrap();
    // What is left of the DER form of a P-256 key is its point: 65 bytes.
    let point = der.get(der.len() - 65..).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    public.verify(&payload, &BASE64_STANDARD.decode(signature).unwrap()).unwrap();

    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["critical"]["image"]["docker-manifest-digest"], DIGEST);
    assert_eq!(payload["critical"]["type"], "cosign container image signature");
    let embedded = payload["optional"]["dev.cosignproject.cosign/pub"].as_str().unwrap();
    assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(embedded).unwrap(), pem.as_bytes());
}

#[test]
fn another_image_another_key_and_a_changed_signature_are_refused() {
    let (signer, other) = (Signer::new(), Signer::new());
    signer.run(&["sign", "sign.key", &image(), "."]);
    let another = image().replace("fa126b", "000000");
    signer.refuses(&["verify", "sign.pub", &another, "."], "another image");
    let foreign = other.path("sign.pub");
    signer.refuses(&["verify", foreign.to_str().unwrap(), &image(), "."], "another key");
    let signature = BASE64_STANDARD.decode(std::fs::read(signer.path("signature")).unwrap()).unwrap();
    let mut changed = signature.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(signer.path("signature"), BASE64_STANDARD.encode(changed)).unwrap();
    signer.refuses(&["verify", "sign.pub", &image(), "."], "the signature is wrong");
}

#[test]
fn what_must_not_happen_by_accident_does_not() {
    use std::os::unix::fs::PermissionsExt as _;

    let signer = Signer::new();
    signer.refuses(&["sign", "sign.key", "us-docker.pkg.dev/acme-primus/image:latest", "."], "not by a tag");
    signer.refuses(&["key", "."], "there is a key already");
    signer.refuses(&["sign", "sign.pub", &image(), "."], "no private key");
    let mode = std::fs::metadata(signer.path("sign.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(signer.try_run(&[]).status.code(), Some(64));
}
