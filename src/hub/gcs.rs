//! Models in a public Cloud Storage bucket, through its JSON API.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use serde::Deserialize;

use super::http::{Http, MAX_LISTED, OpenedFile};
use super::source::ModelSource;
use super::verify::ExpectedFile;
use super::{FetchOptions, HubError};

/// The objects under one prefix of a bucket.
pub(super) struct Gcs {
    http: Http,
    /// `…/storage/v1/b/BUCKET/o`
    objects: Url,
    bucket: String,
    prefix: String,
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
            http: Http::new(endpoint, options)?,
            objects,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// The source that this is.
    pub(super) fn source(&self) -> ModelSource {
        ModelSource::Bucket { bucket: self.bucket.clone(), prefix: self.prefix.clone() }
    }

    /// The model files right under the prefix, page by page.
    pub(super) async fn list(&self) -> Result<Vec<ExpectedFile>, HubError> {
        let (mut files, mut listed, mut page_token) = (Vec::new(), 0, None::<String>);
        loop {
            let mut url = self.objects.clone();
            url.query_pairs_mut()
                .append_pair("prefix", &format!("{}/", self.prefix))
                .append_pair("delimiter", "/")
                .append_pair("fields", "items(name,size,generation,crc32c),nextPageToken")
                .extend_pairs(page_token.iter().map(|token| ("pageToken", token)));
            let (_, page): (_, Page) = self.http.json(self.http.get(url)).await?;
            // A page may be empty and still have a successor; counting pages too bounds the loop.
            listed += page.items.len() + 1;
            files.extend(page.items.iter().filter_map(|object| self.expected(object)));
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
    pub(super) async fn open(&self, file: &ExpectedFile, offset: u64) -> Result<OpenedFile, HubError> {
        let mut url = self.objects.clone();
        url.path_segments_mut()
            .map_err(|()| HubError::Client)?
            .push(&format!("{}/{}", self.prefix, file.name));
        url.query_pairs_mut()
            .append_pair("alt", "media")
            .extend_pairs(file.generation.map(|generation| ("generation", generation.to_string())));
        self.http.open(self.http.get(url), offset).await
    }

    /// What is known of an object; `None` if it is no model file.
    fn expected(&self, object: &Object) -> Option<ExpectedFile> {
        let name = object.name.strip_prefix(&self.prefix)?.strip_prefix('/')?.parse().ok()?;
        let crc32c = BASE64_STANDARD.decode(&object.crc32c).ok()?;
        Some(ExpectedFile {
            name,
            size: object.size.parse().ok()?,
            sha256: None,
            crc32c: Some(u32::from_be_bytes(crc32c.try_into().ok()?)),
            generation: Some(object.generation.parse().ok()?),
        })
    }
}
