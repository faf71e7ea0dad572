//! Models of the Hugging Face Hub. The addresses and the answer about a revision are those of the `hf-hub` crate.
//!
//! Its client is not used: it sets no time-out, takes a proxy from the environment, and cannot be given another
//! client. Its cache is not used: it checks no hash.

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;

use super::http::{Http, MAX_LISTED, OpenedFile};
use super::source::{ModelSource, is_commit};
use super::verify::ExpectedFile;
use super::{FetchOptions, HubError};

/// A repository at one revision.
pub(super) struct Hf {
    http: Http,
    endpoint: Url,
    /// `Bearer …`. Redirects to another host, as to the storage of large files, are followed without it.
    authorization: Option<HeaderValue>,
    name: String,
    revision: String,
}

/// One entry of a directory: a file if `kind` is `file`, with its size in bytes.
#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
}

impl Hf {
    /// Prepares access to the repository `name`, `owner/name`.
    pub(super) fn new(name: &str, revision: Option<&str>, options: &FetchOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoints.hugging_face.as_str();
        let token = options.hugging_face_token.as_ref().map(|token| token.expose().trim());
        let token = token.filter(|token| !token.is_empty());
        Ok(Self {
            http: Http::new(endpoint, options)?,
            endpoint: Url::parse(endpoint).map_err(|_| HubError::Client)?,
            authorization: token.map(bearer).transpose()?,
            name: name.to_owned(),
            revision: revision.unwrap_or("main").to_owned(),
        })
    }

    /// Turns a branch or tag into the commit that it is now.
    pub(super) async fn resolve(&mut self) -> Result<ModelSource, HubError> {
        if !is_commit(&self.revision) {
            let url = self.url(&format!("api/{}", self.repo().api_url()))?;
            let (_, info): (_, RepoInfo) = self.http.json(self.get(url)).await?;
            if !is_commit(&info.sha) {
                return Err(HubError::Unreadable);
            }
            self.revision = info.sha;
        }
        Ok(ModelSource::HuggingFace { repo: self.name.clone(), revision: Some(self.revision.clone()) })
    }

    /// The model files of the repository's root, page by page.
    pub(super) async fn list(&self) -> Result<Vec<ExpectedFile>, HubError> {
        let repo = self.repo();
        let mut page = Some(self.url(&format!("api/models/{}/tree/{}", repo.url(), repo.url_revision()))?);
        let (mut files, mut listed) = (Vec::new(), 0);
        while let Some(url) = page {
            let (headers, entries): (_, Vec<TreeEntry>) = self.http.json(self.get(url)).await?;
            // Pages are counted as well, which bounds the loop if they are empty.
            listed += entries.len() + 1;
            files.extend(entries.into_iter().filter_map(expected));
            page = self.next_page(&headers)?;
            if page.is_some() && listed > MAX_LISTED {
                return Err(HubError::Unreadable);
            }
        }
        Ok(files)
    }

    /// Starts to receive `file` from `offset` on.
    pub(super) async fn open(&self, file: &ExpectedFile, offset: u64) -> Result<OpenedFile, HubError> {
        let repo = self.repo();
        let url = self.url(&format!("{}/resolve/{}/{}", repo.url(), repo.url_revision(), file.name))?;
        self.http.open(self.get(url), offset).await
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, self.revision.clone())
    }

    fn url(&self, path: &str) -> Result<Url, HubError> {
        self.endpoint.join(path).map_err(|_| HubError::Client)
    }

    fn get(&self, url: Url) -> RequestBuilder {
        let request = self.http.get(url);
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// The address of the next page, as `Link: <…>; rel="next"` names it. It gets the token, so it must be on the
    /// same server.
    fn next_page(&self, headers: &HeaderMap) -> Result<Option<Url>, HubError> {
        let Some(link) = headers.get(LINK) else { return Ok(None) };
        let Some(next) = next_link(link.to_str().map_err(|_| HubError::Unreadable)?) else { return Ok(None) };
        let next = self.url(next)?;
        if next.origin() == self.endpoint.origin() { Ok(Some(next)) } else { Err(HubError::Unreadable) }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, HubError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| HubError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is known of an entry; `None` if it is no model file.
fn expected(entry: TreeEntry) -> Option<ExpectedFile> {
    if entry.kind != "file" {
        return None;
    }
    let name = entry.path.parse().ok()?;
    Some(ExpectedFile { name, size: entry.size, sha256: None, crc32c: None, generation: None })
}

/// The target of the link whose relation is `next`, of a header by RFC 8288.
fn next_link(mut links: &str) -> Option<&str> {
    while let Some((_, link)) = links.split_once('<') {
        let (target, rest) = link.split_once('>')?;
        let parameters = rest.split('<').next().unwrap_or_default();
        let is_next = |parameter: &str| {
            let parameter = parameter.trim().trim_end_matches(',').trim_end();
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim_end().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next"
            })
        };
        if parameters.split(';').any(is_next) {
            return Some(target);
        }
        links = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        for (header, expected) in [
            ("<https://hub/a?cursor=x,y;z>; rel=\"next\"", Some("https://hub/a?cursor=x,y;z")),
            ("<https://hub/a>; rel=\"prev\", <https://hub/b>; title=\"t\"; rel=next", Some("https://hub/b")),
            ("<https://hub/a>; REL = \"next\", <https://hub/b>; rel=\"last\"", Some("https://hub/a")),
            ("<https://hub/a>; rel=\"last\"", None),
            ("<https://hub/a", None),
            ("", None),
        ] {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }
}
