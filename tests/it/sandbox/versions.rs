//! Versions of a key, over both wires as in Cloud KMS: made, disabled, enabled, destroyed, restored.

use http::Method;
use prost::Message;
use serde_json::{Value, json};

use super::World;
use super::wire::{self, Answer, Request};

const FAILED_PRECONDITION: u16 = 9;
const PERMISSION_DENIED: u16 = 7;

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int32, tag = "10")]
    algorithm: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Mask {
    #[prost(string, repeated, tag = "1")]
    paths: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Update {
    #[prost(message, optional, tag = "1")]
    version: Option<Version>,
    #[prost(message, optional, tag = "2")]
    mask: Option<Mask>,
}

#[derive(Clone, PartialEq, Message)]
struct MakePrimary {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Key {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    primary: Option<Version>,
}

impl World {
    async fn versions(&self, method: Method, path: &str, body: Value) -> Answer {
        let path = format!("/v1/{}{path}", self.sandbox.kms_key());
        self.send(Request::new(method, &path, body.to_string())).await
    }

    async fn set_state(&self, number: u32, state: &str) -> Answer {
        let path = format!("/cryptoKeyVersions/{number}?updateMask=state");
        self.versions(Method::PATCH, &path, json!({ "state": state })).await
    }
}

#[tokio::test]
async fn a_version_is_made_and_used_once_it_is_primary() {
    let world = World::new().await;
    let federated = world.federated().await;
    let old = world.encrypt("dek").await;
    let made = world.versions(Method::POST, "/cryptoKeyVersions", json!({})).await.ok();
    let second = format!("{}/cryptoKeyVersions/2", world.sandbox.kms_key());
    assert_eq!((&made["name"], &made["state"]), (&json!(second), &json!("ENABLED")));
    let version_of =
        async || world.kms("encrypt", None, json!({"plaintext": "AAAA"})).await.ok()["name"].clone();
    assert!(version_of().await.as_str().unwrap().ends_with("/1"), "the first one is primary still");
    let key =
        world.versions(Method::POST, ":updatePrimaryVersion", json!({"cryptoKeyVersionId": "2"})).await.ok();
    assert_eq!(key["primary"]["name"], second);
    assert_eq!(version_of().await, second);
    assert_eq!(world.decrypt(&federated, &old).await.ok()["usedPrimary"], false);
    let new = world.encrypt("dek").await;
    assert_eq!(world.decrypt(&federated, &new).await.ok()["usedPrimary"], true);
    let listed = world.versions(Method::GET, "/cryptoKeyVersions", json!({})).await.ok();
    assert_eq!((&listed["totalSize"], &listed["cryptoKeyVersions"][1]["name"]), (&json!(2), &json!(second)));
    let read = world.versions(Method::GET, "", json!({})).await.ok();
    assert_eq!(read, key);
}

#[tokio::test]
async fn what_a_disabled_or_destroyed_version_made_is_refused_by_name() {
    let world = World::new().await;
    let federated = world.federated().await;
    let ciphertext = world.encrypt("dek").await;
    let first = format!("{}/cryptoKeyVersions/1", world.sandbox.kms_key());
    let failed = (400, "FAILED_PRECONDITION".to_owned());
    let refused = async |state: &str| {
        let answer = world.decrypt(&federated, &ciphertext).await;
        assert_eq!(answer.error(), failed, "{state}");
        let message = format!("{first} is not enabled, current state is: {state}.");
        assert_eq!(answer.json()["error"]["message"], message);
        let encrypted = world.kms("encrypt", None, json!({"plaintext": "AAAA"})).await;
        assert_eq!(encrypted.error(), failed, "{state}: the primary version is meant");
    };
    assert_eq!(world.set_state(1, "DISABLED").await.ok()["state"], "DISABLED");
    refused("DISABLED").await;
    world.set_state(1, "ENABLED").await.ok();
    world.decrypt(&federated, &ciphertext).await.ok();

    let destroyed = world.versions(Method::POST, "/cryptoKeyVersions/1:destroy", json!({})).await.ok();
    assert_eq!(destroyed["state"], "DESTROY_SCHEDULED");
    refused("DESTROY_SCHEDULED").await;
    let again = world.versions(Method::POST, "/cryptoKeyVersions/1:destroy", json!({})).await;
    assert_eq!(again.error(), failed);
    assert_eq!(world.set_state(1, "ENABLED").await.error(), failed);
    let restored = world.versions(Method::POST, "/cryptoKeyVersions/1:restore", json!({})).await.ok();
    assert_eq!(restored["state"], "DISABLED");
    refused("DISABLED").await;
    world.set_state(1, "ENABLED").await.ok();
    world.decrypt(&federated, &ciphertext).await.ok();
}

#[tokio::test]
async fn requests_that_make_no_sense_or_come_from_others_are_refused() {
    let world = World::new().await;
    let (federated, employee) = (world.federated().await, world.sandbox.employee_token().unwrap());
    let path = format!("/v1/{}/cryptoKeyVersions/1:destroy", world.sandbox.kms_key());
    for token in [federated.as_str(), employee.expose()] {
        let denied = world.send(Request::post(&path, "{}").bearer(token)).await;
        assert_eq!(denied.error(), (403, "PERMISSION_DENIED".to_owned()));
    }
    let unknown = world.send(Request::post(&path, "{}").bearer("made-up")).await;
    assert_eq!(unknown.error(), (401, "UNAUTHENTICATED".to_owned()));
    let (invalid, missing) = ((400, "INVALID_ARGUMENT".to_owned()), (404, "NOT_FOUND".to_owned()));
    for state in ["DESTROYED", "DESTROY_SCHEDULED", "enabled", ""] {
        assert_eq!(world.set_state(1, state).await.error(), invalid, "{state}");
    }
    let unmasked = json!({"state": "DISABLED"});
    let unmasked = world.versions(Method::PATCH, "/cryptoKeyVersions/1", unmasked).await;
    assert_eq!(unmasked.error(), invalid);
    assert_eq!(world.set_state(2, "DISABLED").await.error(), missing);
    for (method, path) in [
        (Method::GET, "/cryptoKeyVersions/2"),
        (Method::GET, "-of-another-project"),
        (Method::PATCH, ""),
        (Method::POST, "/cryptoKeyVersions/1:burn"),
        (Method::POST, "/cryptoKeyVersions/x:destroy"),
    ] {
        assert_eq!(world.versions(method, path, json!({})).await.error(), missing, "{path}");
    }
}

#[tokio::test]
async fn grpc_does_the_same() {
    let world = World::new().await;
    let key = world.sandbox.kms_key().to_owned();
    let call = async |method: &str, message: Vec<u8>| {
        wire::grpc(world.sandbox.endpoint(), method, &message, None).await
    };
    let version = async |method: &str, message: Vec<u8>| {
        call(method, message).await.map(|answer| Version::decode(answer).unwrap())
    };
    let name = |name: &str| Name { name: name.to_owned() }.encode_to_vec();
    let made = version("CreateCryptoKeyVersion", name(&key)).await.unwrap();
    assert_eq!(
        (made.name.as_str(), made.state, made.algorithm),
        (&*format!("{key}/cryptoKeyVersions/2"), 1, 1)
    );
    let primary = MakePrimary { name: key.clone(), id: "2".to_owned() }.encode_to_vec();
    let changed = Key::decode(call("UpdateCryptoKeyPrimaryVersion", primary).await.unwrap()).unwrap();
    assert_eq!(changed.primary.unwrap().name, made.name);
    let update = |state| {
        let version = Version { name: made.name.clone(), state, algorithm: 0 };
        let mask = Mask { paths: vec!["state".to_owned()] };
        Update { version: Some(version), mask: Some(mask) }.encode_to_vec()
    };
    assert_eq!(version("UpdateCryptoKeyVersion", update(2)).await.unwrap().state, 2);
    assert_eq!(version("UpdateCryptoKeyVersion", update(1)).await.unwrap().state, 1);
    assert!(version("UpdateCryptoKeyVersion", update(3)).await.is_err());
    assert_eq!(version("DestroyCryptoKeyVersion", name(&made.name)).await.unwrap().state, 4);
    let (status, message) = version("DestroyCryptoKeyVersion", name(&made.name)).await.unwrap_err();
    assert_eq!(status, FAILED_PRECONDITION);
    assert!(message.contains(&made.name), "{message}");
    assert_eq!(version("RestoreCryptoKeyVersion", name(&made.name)).await.unwrap().state, 2);
    assert_eq!(version("GetCryptoKeyVersion", name(&made.name)).await.unwrap().state, 2);
    let federated = world.federated().await;
    let endpoint = world.sandbox.endpoint();
    let denied = wire::grpc(endpoint, "DestroyCryptoKeyVersion", &name(&made.name), Some(&federated)).await;
    assert_eq!(denied.unwrap_err().0, PERMISSION_DENIED);
}
