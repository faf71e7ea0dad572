//! A Hugging Face Hub and a Cloud Storage in one, on loopback, with faults on demand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LINK, LOCATION, RANGE};
use axum::http::{Method, Response, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::hub::{FetchOptions, HubError, fetch};
use futures_util::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const HF: &str = "hf://owner/model";
pub(super) const GS: &str = "gs://bucket/some/prefix";
pub(super) const WEIGHTS: &str = "model.safetensors";

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Names a server at this port for the next page of a listing.
    ForeignPage(u16),
    /// Sends this many bytes of a body and then nothing, once.
    HangOnceAfter(usize),
    /// Ignores `Range`.
    NoRanges,
    /// Answers each request for content with this status and a page.
    Page(u16),
    /// Ends each body after this many bytes, as if it were complete.
    Short(usize),
    /// Redirects requests for content to the server at this port, as the Hub does with large files.
    Redirect(u16),
    /// Sends other bytes than it lists.
    Swap,
}

/// A Hugging Face Hub and a Cloud Storage in one.
pub(super) struct Fake {
    pub(super) files: Mutex<BTreeMap<&'static str, Vec<u8>>>,
    fault: Mutex<Option<Fault>>,
    requests: Mutex<Vec<String>>,
}

pub(super) struct World {
    pub(super) fake: Arc<Fake>,
    server: tokio::task::JoinHandle<()>,
    pub(super) endpoint: String,
    pub(super) directory: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    pub(super) async fn start() -> Self {
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

    pub(super) fn options(&self, manifest: &str) -> FetchOptions {
        let mut options = FetchOptions::new(self.cache(), manifest.parse().unwrap());
        options.endpoints.hugging_face.clone_from(&self.endpoint);
        options.endpoints.cloud_storage.clone_from(&self.endpoint);
        options.limits.pause = Duration::ZERO;
        options
    }

    pub(super) async fn fetch(&self, source: &str, manifest: &str) -> Result<PathBuf, HubError> {
        fetch(&source.parse().unwrap(), &self.options(manifest)).await
    }

    /// A manifest that pins what the server lists.
    pub(super) fn manifest(&self, source: &str) -> String {
        let revision = if source.starts_with("hf:") { format!("@{COMMIT}") } else { String::new() };
        let mut text = format!("version = 1\n[[model]]\nsource = \"{source}{revision}\"\ndtype = \"bf16\"\n");
        for (name, content) in self.fake.files.lock().unwrap().iter() {
            let (size, sha256) = (content.len(), hex(content));
            text += &format!("[[model.file]]\nname = \"{name}\"\nsize = {size}\nsha256 = \"{sha256}\"\n");
        }
        text
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    pub(super) fn set(&self, fault: impl Into<Option<Fault>>) {
        *self.fake.fault.lock().unwrap() = fault.into();
    }

    pub(super) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.requests.lock().unwrap())
    }

    /// Names of all files in the cache, but for locks.
    pub(super) fn cached(&self) -> Vec<String> {
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

    pub(super) fn assert_complete(&self, directory: &Path) {
        for (name, content) in self.fake.files.lock().unwrap().iter() {
            assert_eq!(&std::fs::read(directory.join(name)).unwrap(), content, "{name}");
        }
        assert!(!self.cached().iter().any(|name| name.ends_with(".part")), "{:?}", self.cached());
    }
}

pub(super) fn files() -> BTreeMap<&'static str, Vec<u8>> {
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

pub(super) fn write_model(directory: &Path) {
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
        return json(json!({"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}));
    }
    if path == format!("/api/models/owner/model/tree/{COMMIT}") {
        let next_origin = match *fake.fault.lock().unwrap() {
            Some(Fault::ForeignPage(port)) => format!("http://127.0.0.1:{port}"),
            _ => String::new(),
        };
        return tree_page(
            &fake,
            query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap()),
            &next_origin,
        );
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

/// One entry a page, and a link to the next at `next_origin`; the last page is a file that is no model's.
fn tree_page(fake: &Fake, index: usize, next_origin: &str) -> Response<Body> {
    let files = fake.files.lock().unwrap();
    let entry = match files.iter().nth(index) {
        Some((name, content)) => json!({"type": "file", "oid": "0", "size": content.len(), "path": name}),
        None if index == files.len() => json!({"type": "directory", "oid": "0", "path": "onnx"}),
        None => {
            let readme = json!([{"type": "file", "oid": "0", "size": 5, "path": "README.md"}]);
            return Response::new(Body::from(readme.to_string()));
        }
    };
    let next = format!("{next_origin}/api/models/owner/model/tree/{COMMIT}?cursor={}", index + 1);
    let link = format!("<{next}>; rel=\"next\"");
    Response::builder().header(LINK, link).body(Body::from(json!([entry]).to_string())).unwrap()
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
