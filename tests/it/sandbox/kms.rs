//! Cloud KMS: permissions, what a ciphertext is bound to, checksums, REST and gRPC.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::sandbox::Principal;
use prost::Message;
use serde_json::json;

use super::World;
use super::wire::{self, Request};

const INVALID_ARGUMENT: u16 = 3;
const NOT_FOUND: u16 = 5;
const PERMISSION_DENIED: u16 = 7;
const UNIMPLEMENTED: u16 = 12;
const UNAUTHENTICATED: u16 = 16;

#[derive(Clone, PartialEq, Message)]
struct Int64Value {
    #[prost(int64, tag = "1")]
    value: i64,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    plaintext: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    aad: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    plaintext_crc32c: Option<Int64Value>,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    ciphertext: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    ciphertext_crc32c: Option<Int64Value>,
    #[prost(bool, tag = "5")]
    verified_plaintext_crc32c: bool,
    #[prost(int32, tag = "7")]
    protection_level: i32,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    ciphertext: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    aad: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    plaintext_crc32c: Option<Int64Value>,
    #[prost(bool, tag = "3")]
    used_primary: bool,
}

async fn grpc(
    world: &World,
    method: &str,
    message: &impl Message,
    token: Option<&str>,
) -> Result<bytes::Bytes, (u16, String)> {
    wire::grpc(world.sandbox.endpoint(), method, &message.encode_to_vec(), token).await
}

#[tokio::test]
async fn encrypters_may_not_decrypt_and_decrypters_may_not_encrypt() {
    let world = World::new().await;
    let ciphertext = world.encrypt("dek").await;
    let denied = (403, "PERMISSION_DENIED".to_owned());
    let employee = world.sandbox.employee_token().unwrap();
    let federated = world.federated().await;
    let plaintext = json!({"plaintext": "AAAA"});
    let anonymous = world.kms("decrypt", None, json!({"ciphertext": ciphertext})).await;
    assert_eq!(anonymous.error(), denied);
    assert_eq!(world.decrypt(employee.expose(), &ciphertext).await.error(), denied);
    world.kms("encrypt", Some(employee.expose()), plaintext.clone()).await.ok();
    assert_eq!(world.kms("encrypt", Some(&federated), plaintext).await.error(), denied);
    let counts = world.sandbox.ledger().counts();
    assert_eq!(counts.decrypt[&Principal::Anonymous].denied, 1);
    assert_eq!(counts.decrypt[&Principal::Employee].denied, 1);
    assert_eq!((counts.decrypts().denied, counts.encrypts().granted), (2, 2));
}

#[tokio::test]
async fn an_unknown_or_revoked_token_is_not_anonymous() {
    let world = World::new().await;
    let unauthenticated = (401, "UNAUTHENTICATED".to_owned());
    let plaintext = json!({"plaintext": "AAAA"});
    let answer = world.kms("encrypt", Some("made-up"), plaintext.clone()).await;
    assert_eq!(answer.error(), unauthenticated);
    let federated = world.federated().await;
    let ciphertext = world.encrypt("dek").await;
    world.sandbox.revoke_access_tokens();
    assert_eq!(world.decrypt(&federated, &ciphertext).await.error(), unauthenticated);
}

#[tokio::test]
async fn rest_answers_have_checksums_and_are_written_as_googles_client_reads_them() {
    let world = World::new().await;
    let crc = i64::from(crc32c::crc32c(b"dek"));
    let body = json!({
        "plaintext": BASE64_STANDARD.encode("dek"), "plaintextCrc32c": crc.to_string(),
        "additionalAuthenticatedData": BASE64_STANDARD.encode("aad"),
    });
    let sealed = world.kms("encrypt", None, body).await.ok();
    let ciphertext = BASE64_STANDARD.decode(sealed["ciphertext"].as_str().unwrap()).unwrap();
    assert_eq!(sealed["name"], format!("{}/cryptoKeyVersions/1", world.sandbox.kms_key()));
    assert_eq!(sealed["ciphertextCrc32c"], crc32c::crc32c(&ciphertext).to_string());
    assert_eq!(sealed["verifiedPlaintextCrc32c"], true);
    assert_eq!(sealed["verifiedAdditionalAuthenticatedDataCrc32c"], false);
    assert_eq!(sealed["protectionLevel"], 1);

    let federated = world.federated().await;
    let body = json!({
        "ciphertext": sealed["ciphertext"], "ciphertextCrc32c": crc32c::crc32c(&ciphertext),
        "additionalAuthenticatedData": BASE64_STANDARD.encode("aad"),
        "additionalAuthenticatedDataCrc32c": crc32c::crc32c(b"aad").to_string(),
    });
    let opened = world.kms("decrypt", Some(&federated), body).await.ok();
    assert_eq!(
        opened,
        json!({
            "plaintext": BASE64_STANDARD.encode("dek"), "plaintextCrc32c": crc.to_string(),
            "usedPrimary": true, "protectionLevel": 1,
        })
    );
}

#[tokio::test]
async fn a_ciphertext_is_bound_to_its_key_and_its_additional_data() {
    let world = World::new().await;
    let federated = world.federated().await;
    let sealed = world.encrypt("dek").await;
    let invalid = (400, "INVALID_ARGUMENT".to_owned());
    let with_aad = json!({"ciphertext": sealed, "additionalAuthenticatedData": "AAAA"});
    assert_eq!(world.kms("decrypt", Some(&federated), with_aad).await.error(), invalid);
    let mut flipped = BASE64_STANDARD.decode(&sealed).unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(world.decrypt(&federated, &BASE64_STANDARD.encode(flipped)).await.error(), invalid);

    let other = world.sandbox.kms_key().replace("/dek", "/other");
    let path = format!("/v1/{other}:decrypt");
    let ask = || Request::post(&path, json!({"ciphertext": sealed}).to_string()).bearer(&federated);
    assert_eq!(world.send(ask()).await.error(), (404, "NOT_FOUND".to_owned()));
    world.sandbox.add_key(&other).unwrap();
    assert_eq!(world.send(ask()).await.error(), invalid);
}

#[tokio::test]
async fn requests_with_a_wrong_checksum_or_nonsense_are_invalid() {
    let world = World::new().await;
    let federated = world.federated().await;
    for (verb, token, body) in [
        ("encrypt", None, json!({"plaintext": "AAAA", "plaintextCrc32c": "1"})),
        ("encrypt", None, json!({"plaintext": "AAAA", "additionalAuthenticatedDataCrc32c": 1})),
        ("encrypt", None, json!({"plaintext": "*"})),
        ("encrypt", None, json!({"plaintext": BASE64_STANDARD.encode(vec![0; 64 * 1024 + 1])})),
        ("decrypt", Some(federated.as_str()), json!({"ciphertext": "AAAA", "ciphertextCrc32c": "1"})),
        ("decrypt", Some(federated.as_str()), json!({})),
    ] {
        let answer = world.kms(verb, token, body).await;
        assert_eq!(answer.error(), (400, "INVALID_ARGUMENT".to_owned()), "{}", answer.text());
    }
    assert_eq!(world.kms("destroy", None, json!({})).await.error(), (404, "NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn grpc_does_the_same() {
    let world = World::new().await;
    let name = world.sandbox.kms_key().to_owned();
    let crc = Int64Value { value: crc32c::crc32c(b"dek").into() };
    let request = EncryptRequest {
        name: name.clone(),
        plaintext: b"dek".to_vec(),
        aad: b"aad".to_vec(),
        plaintext_crc32c: Some(crc.clone()),
    };
    let sealed = EncryptResponse::decode(grpc(&world, "Encrypt", &request, None).await.unwrap()).unwrap();
    assert_eq!(sealed.name, format!("{name}/cryptoKeyVersions/1"));
    assert_eq!(sealed.ciphertext_crc32c.unwrap().value, i64::from(crc32c::crc32c(&sealed.ciphertext)));
    assert!(sealed.verified_plaintext_crc32c);
    assert_eq!(sealed.protection_level, 1);

    let federated = world.federated().await;
    let request = DecryptRequest { name, ciphertext: sealed.ciphertext, aad: b"aad".to_vec() };
    let opened = grpc(&world, "Decrypt", &request, Some(&federated)).await.unwrap();
    let opened = DecryptResponse::decode(opened).unwrap();
    assert_eq!((opened.plaintext.as_slice(), opened.used_primary), (&b"dek"[..], true));
    assert_eq!(opened.plaintext_crc32c, Some(crc));

    let wrong_aad = DecryptRequest { aad: b"other".to_vec(), ..request.clone() };
    let refusal = grpc(&world, "Decrypt", &wrong_aad, Some(&federated)).await.unwrap_err();
    assert_eq!(refusal, (INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid.".to_owned()));
    let status = async |method: &str, request: &DecryptRequest, token: Option<&str>| {
        grpc(&world, method, request, token).await.unwrap_err().0
    };
    assert_eq!(status("Decrypt", &request, None).await, PERMISSION_DENIED);
    assert_eq!(status("Decrypt", &request, Some("made-up")).await, UNAUTHENTICATED);
    assert_eq!(status("AsymmetricSign", &request, None).await, UNIMPLEMENTED);
    let wrong_key = DecryptRequest { name: "other".to_owned(), ..request };
    assert_eq!(status("Decrypt", &wrong_key, Some(&federated)).await, NOT_FOUND);
}
