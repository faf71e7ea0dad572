//! HTTP requests of every download: time-outs, status, size of an answer and start of a range are checked here.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::{FetchOptions, HubError};

/// The longest JSON answer that is read: a page of a listing has at most 1000 entries.
const MAX_JSON_BYTES: usize = 4 << 20;

/// The most files that a listing is read to.
pub(super) const MAX_LISTED: usize = 10_000;

/// A body, and the byte of the file that it starts with: a server may ignore where it was asked to start.
pub(super) struct OpenedFile {
    pub(super) offset: u64,
    pub(super) body: BoxStream<'static, Result<Bytes, HubError>>,
}

/// The client that every download goes through: time-outs everywhere, no proxy from the environment, and nothing
/// but TLS unless the endpoint, which only code can set, is a plain one.
pub(super) struct Http {
    client: Client,
    answer: Duration,
    stall: Duration,
}

impl Http {
    /// Prepares requests to `endpoint`.
    ///
    /// # Errors
    /// [`HubError::Client`] without CA certificates.
    pub(super) fn new(endpoint: &str, options: &FetchOptions) -> Result<Self, HubError> {
        let client = Client::builder()
            .connect_timeout(options.limits.connect)
            .read_timeout(options.limits.stall)
            .https_only(!endpoint.starts_with("http://"))
            .no_proxy()
            .user_agent(concat!("codeseal/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| HubError::Client)?;
        Ok(Self { client, answer: options.limits.answer, stall: options.limits.stall })
    }

    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    /// Sends `request` and reads its answer, of at most [`MAX_JSON_BYTES`], with its headers.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<(HeaderMap, T), HubError> {
        let mut response = self.send(request).await?;
        let headers = std::mem::take(response.headers_mut());
        let mut body = response.bytes_stream();
        let mut json = Vec::new();
        while let Some(chunk) = within(self.stall, body.try_next()).await?.map_err(|error| failure(&error))? {
            if json.len() + chunk.len() > MAX_JSON_BYTES {
                return Err(HubError::Unreadable);
            }
            json.extend_from_slice(&chunk);
        }
        let value = serde_json::from_slice(&json).map_err(|_| HubError::Unreadable)?;
        Ok((headers, value))
    }

    /// Sends `request` for a file from the byte `offset` on. A server may ignore the range: [`OpenedFile`] says where
    /// its body starts.
    pub(super) async fn open(&self, request: RequestBuilder, offset: u64) -> Result<OpenedFile, HubError> {
        let request = match offset {
            0 => request,
            _ => request.header(RANGE, format!("bytes={offset}-")),
        };
        let response = self.send(request).await?;
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => start_of(response.headers()).ok_or(HubError::Unreadable)?,
            _ => 0,
        };
        let stall = self.stall;
        let body = futures_util::stream::unfold(response.bytes_stream(), move |mut body| async move {
            let chunk = match within(stall, body.next()).await {
                Ok(chunk) => chunk?.map_err(|error| failure(&error)),
                Err(error) => Err(error),
            };
            Some((chunk, body))
        });
        Ok(OpenedFile { offset, body: body.boxed() })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, HubError> {
        let response = within(self.answer, request.send()).await?.map_err(|error| failure(&error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(HubError::NotFound),
            status => Err(HubError::Status { status: status.as_u16() }),
        }
    }
}

/// 5 of `Content-Range: bytes 5-9/10`.
fn start_of(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn failure(error: &reqwest::Error) -> HubError {
    if error.is_timeout() { HubError::TimedOut } else { HubError::Unreachable }
}

/// Waits for `future` no longer than `limit`.
///
/// # Errors
/// [`HubError::TimedOut`]
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, HubError> {
    tokio::time::timeout(limit, future).await.map_err(|_| HubError::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let waited = within(Duration::from_secs(30), std::future::pending::<()>()).await;
        assert!(matches!(waited, Err(HubError::TimedOut)));
    }
}
