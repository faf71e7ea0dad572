//! Model sources against loopback servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE};
use axum::http::{Method, Response, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::hub::{FetchOptions, HubError, Manifest, ModelSource, fetch, lock};
use codeseal::secret::Secret;
use futures_util::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const HF: &str = "hf://owner/model";
const GS: &str = "gs://bucket/some/prefix";
const WEIGHTS: &str = "model.safetensors";

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Sends so many bytes of a body and then nothing, once.
    HangOnceAfter(usize),
    /// Ignores `Range`.
    NoRanges,
    /// Answers each request for content with this status and a page.
    Page(u16),
    /// Ends each body after so many bytes as if that were all.
    Short(usize),
    /// Sends whoever wants content to the server at this port, as the Hub does with large files.
    Redirect(u16),
    /// Sends other bytes than it lists.
    Swap,
}

/// A Hugging Face Hub and a Cloud Storage in one.
struct Fake {
    files: Mutex<BTreeMap<&'static str, Vec<u8>>>,
    fault: Mutex<Option<Fault>>,
    requests: Mutex<Vec<String>>,
}

struct World {
    fake: Arc<Fake>,
    server: tokio::task::JoinHandle<()>,
    endpoint: String,
    directory: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    async fn start() -> Self {
        let fake = Arc::new(Fake {
            files: Mutex::new(files()),
            fault: Mutex::new(None),
            requests: Mutex::new(Vec::new()),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(fake.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { fake, server, endpoint, directory: tempfile::tempdir().unwrap() }
    }

    fn options(&self, manifest: &str) -> FetchOptions {
        let mut options = FetchOptions::new(self.cache(), manifest.parse().unwrap());
        options.endpoints.hugging_face.clone_from(&self.endpoint);
        options.endpoints.cloud_storage.clone_from(&self.endpoint);
        options.limits.pause = Duration::ZERO;
        options
    }

    async fn fetch(&self, source: &str, manifest: &str) -> Result<PathBuf, HubError> {
        fetch(&source.parse().unwrap(), &self.options(manifest)).await
    }

    /// A manifest that pins what the server lists.
    fn manifest(&self, source: &str) -> String {
        let revision = if source.starts_with("hf:") { format!("@{COMMIT}") } else { String::new() };
        let mut text = format!("version = 1\n[[model]]\nsource = \"{source}{revision}\"\ndtype = \"bf16\"\n");
        for (name, content) in self.fake.files.lock().unwrap().iter() {
            let (size, sha256) = (content.len(), hex(content));
            text += &format!("[[model.file]]\nname = \"{name}\"\nsize = {size}\nsha256 = \"{sha256}\"\n");
        }
        text
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn set(&self, fault: impl Into<Option<Fault>>) {
        *self.fake.fault.lock().unwrap() = fault.into();
    }

    fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.requests.lock().unwrap())
    }

    /// Names of all files in the cache, but for locks.
    fn cached(&self) -> Vec<String> {
        let (mut names, mut todo) = (Vec::new(), vec![self.cache()]);
        while let Some(directory) = todo.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => todo.push(entry.path()),
                    false if name != ".lock" => names.push(name),
                    false => {}
                }
            }
        }
        names.sort();
        names
    }

    fn assert_complete(&self, directory: &Path) {
        for (name, content) in self.fake.files.lock().unwrap().iter() {
            assert_eq!(&std::fs::read(directory.join(name)).unwrap(), content, "{name}");
        }
        assert!(!self.cached().iter().any(|name| name.ends_with(".part")), "{:?}", self.cached());
    }
}

fn files() -> BTreeMap<&'static str, Vec<u8>> {
    let header = br#"{"a":{"dtype":"BF16","shape":[2000],"data_offsets":[0,4000]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    weights.extend((0..4000u32).map(|n| (n % 251) as u8));
    BTreeMap::from([
        ("config.json", b"{}".to_vec()),
        ("generation_config.json", b"{ }".to_vec()),
        ("tokenizer.json", b"{  }".to_vec()),
        (WEIGHTS, weights),
    ])
}

fn write_model(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    for (name, content) in files() {
        std::fs::write(directory.join(name), content).unwrap();
    }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn answer(State(fake): State<Arc<Fake>>, request: Request) -> Response<Body> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (range, token) = (header(RANGE), header(AUTHORIZATION));
    fake.requests.lock().unwrap().push(format!(
        "{} {} range={} token={}",
        request.method(),
        request.uri(),
        range.as_deref().unwrap_or("-"),
        token.as_deref().unwrap_or("-")
    ));
    let url = reqwest::Url::parse(&format!("http://host{}", request.uri())).unwrap();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let path = url.path().to_owned();
    let json = |value: serde_json::Value| Response::new(Body::from(value.to_string()));

    if path == "/api/models/owner/model/revision/main" {
        return json(json!({"id": "owner/model", "sha": COMMIT}));
    }
    if path == format!("/api/models/owner/model/tree/{COMMIT}") {
        let entry = |(name, content): (&&str, &Vec<u8>)| json!({"type": "file", "oid": "0", "size": content.len(), "path": name});
        let mut entries: Vec<_> = fake.files.lock().unwrap().iter().map(entry).collect();
        entries.push(json!({"type": "file", "oid": "0", "size": 5, "path": "README.md"}));
        entries.push(json!({"type": "directory", "oid": "0", "path": "onnx"}));
        return json(entries.into());
    }
    if let Some(name) = path.strip_prefix(&format!("/owner/model/resolve/{COMMIT}/")) {
        return content(&fake, name, request.method(), range.as_deref());
    }
    if path == "/storage/v1/b/bucket/o" {
        assert_eq!(query["prefix"], "some/prefix/");
        return json(page(&fake, query.get("pageToken").map_or(0, |token| token.parse().unwrap())));
    }
    if let Some(name) = path.strip_prefix("/storage/v1/b/bucket/o/some%2Fprefix%2F") {
        assert_eq!(query["alt"], "media");
        assert!(query.get("generation").is_none_or(|generation| generation == "7"));
        return content(&fake, name, request.method(), range.as_deref());
    }
    Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap()
}

/// One object a page, and an empty page at the end.
fn page(fake: &Fake, index: usize) -> serde_json::Value {
    let files = fake.files.lock().unwrap();
    let Some((name, content)) = files.iter().nth(index) else { return json!({}) };
    let crc32c = BASE64_STANDARD.encode(crc32c::crc32c(content).to_be_bytes());
    let item = json!({
        "name": format!("some/prefix/{name}"), "size": content.len().to_string(),
        "generation": "7", "crc32c": crc32c,
    });
    json!({"items": [item], "nextPageToken": (index + 1).to_string()})
}

fn content(fake: &Fake, name: &str, method: &Method, range: Option<&str>) -> Response<Body> {
    let Some(mut content) = fake.files.lock().unwrap().get(name).cloned() else {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    let fault = *fake.fault.lock().unwrap();
    if let Some(Fault::Redirect(port)) = fault {
        let target = format!("http://127.0.0.1:{port}/owner/model/resolve/{COMMIT}/{name}");
        return Response::builder().status(302).header(LOCATION, target).body(Body::empty()).unwrap();
    }
    let builder = Response::builder().header(ETAG, "\"etag\"").header("x-repo-commit", COMMIT);
    if method == Method::HEAD {
        return builder.header(CONTENT_LENGTH, content.len()).body(Body::empty()).unwrap();
    }
    let total = content.len();
    let start = range.filter(|_| fault != Some(Fault::NoRanges)).map(|range| {
        range.strip_prefix("bytes=").unwrap().split_once('-').unwrap().0.parse::<usize>().unwrap()
    });
    let mut content = content.split_off(start.unwrap_or(0));
    let builder = match start {
        Some(start) => builder
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, format!("bytes {start}-{}/{total}", total - 1)),
        None => builder,
    };
    match fault {
        Some(Fault::Page(status)) => {
            Response::builder().status(status).body(Body::from("<html>an error</html>")).unwrap()
        }
        Some(Fault::Short(count)) => {
            content.truncate(count);
            let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(content))]);
            builder.body(Body::from_stream(body)).unwrap()
        }
        Some(Fault::HangOnceAfter(count)) if name == WEIGHTS => {
            *fake.fault.lock().unwrap() = None;
            content.truncate(count);
            let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(content))]);
            builder.body(Body::from_stream(first.chain(stream::pending()))).unwrap()
        }
        Some(Fault::Swap) if name == WEIGHTS => {
            *content.last_mut().unwrap() ^= 1;
            builder.body(Body::from(content)).unwrap()
        }
        _ => builder.body(Body::from(content)).unwrap(),
    }
}

#[tokio::test]
async fn an_unpinned_model_is_resolved_listed_and_fetched() {
    for source in [HF, GS] {
        let world = World::start().await;
        let directory = world.fetch(source, "version = 1").await.unwrap();
        world.assert_complete(&directory);
        assert_eq!(world.cached().len(), 4);
        let requests = world.take_requests();
        assert!(requests.iter().all(|request| request.ends_with("token=-")), "{requests:?}");
    }
}

#[tokio::test]
async fn a_pinned_model_in_the_cache_needs_no_network() {
    for source in [HF, GS] {
        let world = World::start().await;
        let manifest = world.manifest(source);
        let first = world.fetch(source, &manifest).await.unwrap();
        world.assert_complete(&first);
        assert!(!world.take_requests().is_empty());
        let mut options = world.options(&manifest);
        options.require_locked = true;
        assert_eq!(fetch(&source.parse().unwrap(), &options).await.unwrap(), first);
        assert_eq!(world.take_requests(), [""; 0]);
    }
}

#[tokio::test]
async fn a_cached_file_that_was_changed_is_fetched_again() {
    let world = World::start().await;
    let manifest = world.manifest(HF);
    let directory = world.fetch(HF, &manifest).await.unwrap();
    std::fs::write(directory.join("config.json"), "[]").unwrap();
    std::fs::write(directory.join("model.safetensors.index.json"), "{}").unwrap();
    world.take_requests();
    world.fetch(HF, &manifest).await.unwrap();
    world.assert_complete(&directory);
    assert_eq!(world.cached().len(), 4);
    assert!(world.take_requests().iter().all(|request| request.contains("/config.json")));
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_bucket() {
    let world = World::start().await;
    for (source, expected) in [(HF, "token=Bearer hf_canary"), (GS, "token=-")] {
        let mut options = world.options("version = 1");
        options.hugging_face_token = Some(Secret::new("hf_canary\n".to_owned()));
        assert!(!format!("{options:?}").contains("canary"));
        fetch(&source.parse().unwrap(), &options).await.unwrap();
        let requests = world.take_requests();
        assert!(requests.iter().all(|request| request.ends_with(expected)), "{requests:?}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_the_token() {
    let (world, other) = (World::start().await, World::start().await);
    world.set(Fault::Redirect(reqwest::Url::parse(&other.endpoint).unwrap().port().unwrap()));
    let mut options = world.options(&world.manifest(HF));
    options.hugging_face_token = Some(Secret::new("hf_canary".to_owned()));
    world.assert_complete(&fetch(&HF.parse().unwrap(), &options).await.unwrap());
    let requests = other.take_requests();
    assert!(requests.len() >= 4, "{requests:?}");
    assert!(requests.iter().all(|request| request.ends_with("token=-")), "{requests:?}");
}

#[tokio::test]
async fn bytes_other_than_the_pinned_ones_are_refused_and_not_kept() {
    for source in [HF, GS] {
        let world = World::start().await;
        world.set(Fault::Swap);
        let error = world.fetch(source, &world.manifest(source)).await.unwrap_err();
        assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == WEIGHTS), "{error}");
        assert!(!world.cached().iter().any(|name| name.starts_with(WEIGHTS)), "{:?}", world.cached());
    }
}

#[tokio::test]
async fn a_bucket_is_held_to_the_checksums_that_it_lists() {
    let world = World::start().await;
    world.set(Fault::Swap);
    let error = world.fetch(GS, "version = 1").await.unwrap_err();
    assert!(matches!(error, HubError::Mismatch { .. }), "{error}");
    assert!(!world.cached().iter().any(|name| name.starts_with(WEIGHTS)), "{:?}", world.cached());
}

#[tokio::test]
async fn an_error_page_is_never_a_model_file() {
    for (source, status, attempts) in [(HF, 403, 1), (HF, 500, 5), (GS, 403, 1), (GS, 500, 5)] {
        let world = World::start().await;
        world.set(Fault::Page(status));
        let error = world.fetch(source, &world.manifest(source)).await.unwrap_err();
        assert!(matches!(error, HubError::Status { status: found } if found == status), "{error}");
        assert_eq!(world.cached(), [""; 0]);
        let gets = world.take_requests().iter().filter(|request| request.starts_with("GET")).count();
        assert_eq!(gets, attempts, "{source} {status}");
    }
}

#[tokio::test]
async fn a_short_body_is_completed_or_refused() {
    for source in [HF, GS] {
        let world = World::start().await;
        let manifest = world.manifest(source);
        world.set(Fault::Short(0));
        let error = world.fetch(source, &manifest).await.unwrap_err();
        assert!(matches!(error, HubError::Truncated), "{error}");
        assert!(world.cached().iter().all(|name| name.ends_with(".part")), "{:?}", world.cached());
        // Each try brings a third of the file.
        world.set(Fault::Short(1400));
        world.assert_complete(&world.fetch(source, &manifest).await.unwrap());
    }
}

#[tokio::test]
async fn a_download_that_hangs_is_resumed_where_it_was() {
    for source in [HF, GS] {
        let world = World::start().await;
        world.set(Fault::HangOnceAfter(1000));
        let mut options = world.options(&world.manifest(source));
        options.limits.stall = Duration::from_millis(300);
        let directory = fetch(&source.parse().unwrap(), &options).await.unwrap();
        world.assert_complete(&directory);
        let requests = world.take_requests();
        assert!(requests.iter().any(|request| request.contains("range=bytes=1000-")), "{requests:?}");
    }
}

#[tokio::test]
async fn a_part_of_another_file_and_a_server_without_ranges_only_cost_a_restart() {
    for (source, fault) in [(HF, None), (GS, None), (HF, Some(Fault::NoRanges)), (GS, Some(Fault::NoRanges))]
    {
        for part in [vec![1; 1000], vec![1; 9000]] {
            let world = World::start().await;
            let manifest = world.manifest(source);
            let directory = world.fetch(source, &manifest).await.unwrap();
            std::fs::remove_file(directory.join(WEIGHTS)).unwrap();
            std::fs::write(directory.join(format!("{WEIGHTS}.part")), part).unwrap();
            world.set(fault);
            world.fetch(source, &manifest).await.unwrap();
            world.assert_complete(&directory);
        }
    }
}

#[tokio::test]
async fn a_source_that_is_not_there_is_not_found() {
    let world = World::start().await;
    for source in ["hf://owner/other", "hf://owner/model@dev", "gs://other/prefix"] {
        let error = world.fetch(source, "version = 1").await.unwrap_err();
        assert!(matches!(error, HubError::NotFound), "{source}: {error}");
    }
    world.fake.files.lock().unwrap().remove(WEIGHTS);
    for source in [HF, GS] {
        let error = world.fetch(source, "version = 1").await.unwrap_err();
        assert!(matches!(error, HubError::Missing { ref file } if file.as_str() == WEIGHTS), "{error}");
    }
    assert_eq!(world.cached(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_that_names_no_address() {
    let world = World::start().await;
    let mut options = world.options("version = 1");
    // Port 9 of loopback: nobody listens there.
    options.endpoints.hugging_face = "http://127.0.0.1:9".to_owned();
    options.endpoints.cloud_storage = "http://127.0.0.1:9".to_owned();
    for source in [HF, GS] {
        let error = fetch(&source.parse().unwrap(), &options).await.unwrap_err();
        assert!(matches!(error, HubError::Unreachable), "{error}");
        assert!(!error.to_string().contains("127"), "{error}");
    }
}

#[tokio::test]
async fn only_one_process_fills_a_cache() {
    let world = World::start().await;
    let manifest = world.manifest(GS);
    let directory = world.fetch(GS, &manifest).await.unwrap();
    let other = std::fs::File::open(directory.join(".lock")).unwrap();
    other.lock().unwrap();
    assert!(matches!(world.fetch(GS, &manifest).await, Err(HubError::Busy)));
    drop(other);
    world.fetch(GS, &manifest).await.unwrap();
}

#[tokio::test]
async fn an_unlocked_model_is_refused_where_locked_ones_are_required() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    let partial = format!(
        "version = 1\n[[model]]\nsource = \"{HF}\"\ndtype = \"bf16\"\n\
         [[model.file]]\nname = \"{WEIGHTS}\"\nunlocked = true\n"
    );
    for manifest in ["version = 1", &partial] {
        for source in [HF, GS, local.to_str().unwrap()] {
            let mut options = world.options(manifest);
            options.require_locked = true;
            let error = fetch(&source.parse().unwrap(), &options).await.unwrap_err();
            assert!(matches!(error, HubError::NotLocked), "{source}: {error}");
        }
    }
    assert_eq!(world.take_requests(), [""; 0]);
}

#[tokio::test]
async fn a_local_directory_needs_no_network_and_no_manifest() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    std::fs::write(local.join("README.md"), "not a model file").unwrap();
    assert_eq!(world.fetch(local.to_str().unwrap(), "version = 1").await.unwrap(), local);
    std::fs::remove_file(local.join("tokenizer.json")).unwrap();
    let error = world.fetch(local.to_str().unwrap(), "version = 1").await.unwrap_err();
    assert!(matches!(error, HubError::Missing { ref file } if file.as_str() == "tokenizer.json"), "{error}");
    assert_eq!(world.take_requests(), [""; 0]);
    assert_eq!(world.cached(), [""; 0]);
}

#[tokio::test]
async fn a_model_that_the_manifest_knows_is_recognised_wherever_it_lies() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    let mut options = world.options(&world.manifest(HF));
    options.require_locked = true;
    let source = ModelSource::Directory(local.clone());
    fetch(&source, &options).await.unwrap();

    // The right weights with another configuration are a forgery, locked or not.
    std::fs::write(local.join("config.json"), "[]").unwrap();
    options.require_locked = false;
    let error = fetch(&source, &options).await.unwrap_err();
    assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == "config.json"), "{error}");
    std::fs::write(local.join("config.json"), "{}").unwrap();

    // And so is a file that the manifest does not know.
    std::fs::write(local.join("tokenizer_config.json"), "{}").unwrap();
    let error = fetch(&source, &options).await.unwrap_err();
    assert!(matches!(error, HubError::Mismatch { .. }), "{error}");
    std::fs::remove_file(local.join("tokenizer_config.json")).unwrap();

    // Other weights of the same length are another model: fine unless a locked one is required.
    let mut weights = files()[WEIGHTS].clone();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(local.join(WEIGHTS), weights).unwrap();
    fetch(&source, &options).await.unwrap();
    options.require_locked = true;
    assert!(matches!(fetch(&source, &options).await, Err(HubError::NotLocked)));
}

#[tokio::test]
async fn what_lock_writes_fetch_accepts_and_a_flipped_byte_is_refused() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    let path = world.directory.path().join("manifest.toml");
    std::fs::write(&path, "# head\nversion = 1\n\n# about the model\n[[model]]\nsource = \"hf://owner/model\"\ndtype = \"f32\"\n").unwrap();
    for source in [HF, GS, local.to_str().unwrap()] {
        let source: ModelSource = source.parse().unwrap();
        lock(&source, &world.options("version = 1"), &path).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# head\nversion = 1\n\n# about the model\n[[model]]\n"), "{text}");

        let mut options = world.options(&text);
        options.require_locked = true;
        let directory = fetch(&source, &options).await.unwrap();
        lock(&source, &world.options("version = 1"), &path).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "locking twice changes nothing");

        let mut weights = files()[WEIGHTS].clone();
        weights[2000] ^= 1;
        std::fs::write(directory.join(WEIGHTS), weights).unwrap();
        world.set(Fault::Swap);
        let error = fetch(&source, &options).await.unwrap_err();
        assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == WEIGHTS), "{error}");
        world.set(None);
    }
    let manifest: Manifest = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let sources: Vec<_> = manifest.models().iter().map(|entry| entry.source.to_string()).collect();
    assert_eq!(sources, [&format!("{HF}@{COMMIT}"), GS, local.to_str().unwrap()]);
    assert!(manifest.models().iter().all(|entry| entry.is_locked() && entry.dtype.as_str() == "bf16"));
}

#[tokio::test]
async fn a_manifest_that_does_not_parse_is_not_overwritten() {
    let world = World::start().await;
    let path = world.directory.path().join("manifest.toml");
    std::fs::write(&path, "version = 1\nsurprise = true\n").unwrap();
    let error = lock(&HF.parse().unwrap(), &world.options("version = 1"), &path).await.unwrap_err();
    assert!(matches!(error, HubError::Manifest(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "version = 1\nsurprise = true\n");
}
