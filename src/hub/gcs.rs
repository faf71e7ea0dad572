//! Models in a public Cloud Storage bucket, through its JSON API.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

use super::download::within;
use super::remote::{MAX_LISTED, Opened, client};
use super::source::ModelSource;
use super::verify::Wanted;
use super::{FetchOptions, HubError};

/// The longest page of a listing that is read: a page has at most 1000 objects.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// The objects under one prefix of a bucket.
pub(super) struct Gcs {
    client: Client,
    /// `…/storage/v1/b/BUCKET/o`
    objects: Url,
    bucket: String,
    prefix: String,
    answer: Duration,
    stall: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    items: Vec<Object>,
    next_page_token: Option<String>,
}

/// 64-bit numbers are texts in this API.
#[derive(Deserialize)]
struct Object {
    name: String,
    size: String,
    generation: String,
    crc32c: String,
}

impl Gcs {
    /// Prepares access to the objects whose names begin with `prefix` and a slash.
    pub(super) fn new(bucket: &str, prefix: &str, options: &FetchOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoints.cloud_storage.as_str();
        let mut objects = Url::parse(endpoint).map_err(|_| HubError::Client)?;
        objects
            .path_segments_mut()
            .map_err(|()| HubError::Client)?
            .pop_if_empty()
            .extend(["storage", "v1", "b", bucket, "o"]);
        Ok(Self {
            client: client(endpoint, options)?,
            objects,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            answer: options.limits.answer,
            stall: options.limits.stall,
        })
    }

    /// The source that this is.
    pub(super) fn source(&self) -> ModelSource {
        ModelSource::Bucket { bucket: self.bucket.clone(), prefix: self.prefix.clone() }
    }

    /// The model files right under the prefix, page by page.
    pub(super) async fn list(&self) -> Result<Vec<Wanted>, HubError> {
        let (mut files, mut listed, mut page_token) = (Vec::new(), 0, None::<String>);
        loop {
            let mut url = self.objects.clone();
            url.query_pairs_mut()
                .append_pair("prefix", &format!("{}/", self.prefix))
                .append_pair("delimiter", "/")
                .append_pair("fields", "items(name,size,generation,crc32c),nextPageToken")
                .extend_pairs(page_token.iter().map(|token| ("pageToken", token)));
            let page: Page = self.page(url).await?;
            // A page may be empty and still have a successor; counting pages too bounds the loop.
            listed += page.items.len() + 1;
            files.extend(page.items.iter().filter_map(|object| self.wanted(object)));
            page_token = page.next_page_token;
            if page_token.is_none() {
                return Ok(files);
            }
            if listed > MAX_LISTED {
                return Err(HubError::Unreadable);
            }
        }
    }

    /// Starts to receive `file` from `offset` on, in the version that was listed.
    pub(super) async fn open(&self, file: &Wanted, offset: u64) -> Result<Opened, HubError> {
        let mut url = self.objects.clone();
        url.path_segments_mut()
            .map_err(|()| HubError::Client)?
            .push(&format!("{}/{}", self.prefix, file.name));
        url.query_pairs_mut()
            .append_pair("alt", "media")
            .extend_pairs(file.generation.map(|generation| ("generation", generation.to_string())));
        let mut request = self.client.get(url);
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = self.answer_of(request).await?;
        let offset = if response.status() == StatusCode::PARTIAL_CONTENT {
            start_of(&response).ok_or(HubError::Unreadable)?
        } else {
            0
        };
        let stall = self.stall;
        let body = futures_util::stream::unfold(response.bytes_stream(), move |mut body| async move {
            let chunk = match within(stall, body.next()).await {
                Ok(chunk) => chunk?.map_err(|error| failure(&error)),
                Err(error) => Err(error),
            };
            Some((chunk, body))
        });
        Ok(Opened { offset, body: body.boxed() })
    }

    async fn page(&self, url: Url) -> Result<Page, HubError> {
        let mut body = self.answer_of(self.client.get(url)).await?.bytes_stream();
        let mut page = Vec::new();
        while let Some(chunk) = within(self.stall, body.try_next()).await?.map_err(|error| failure(&error))? {
            if page.len() + chunk.len() > MAX_PAGE_BYTES {
                return Err(HubError::Unreadable);
            }
            page.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&page).map_err(|_| HubError::Unreadable)
    }

    async fn answer_of(&self, request: reqwest::RequestBuilder) -> Result<Response, HubError> {
        let response = within(self.answer, request.send()).await?.map_err(|error| failure(&error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(HubError::NotFound),
            status => Err(HubError::Status { status: status.as_u16() }),
        }
    }

    /// What is known of an object; `None` if it is no model file.
    fn wanted(&self, object: &Object) -> Option<Wanted> {
        let name = object.name.strip_prefix(&self.prefix)?.strip_prefix('/')?.parse().ok()?;
        let crc32c = BASE64_STANDARD.decode(&object.crc32c).ok()?;
        Some(Wanted {
            name,
            size: object.size.parse().ok()?,
            sha256: None,
            crc32c: Some(u32::from_be_bytes(crc32c.try_into().ok()?)),
            generation: Some(object.generation.parse().ok()?),
        })
    }
}

/// 5 of `Content-Range: bytes 5-9/10`.
fn start_of(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn failure(error: &reqwest::Error) -> HubError {
    if error.is_timeout() { HubError::TimedOut } else { HubError::Unreachable }
}
