//! Requests made by hand: HTTP/1.1 over any stream, gRPC over HTTP/2, the token exchange's form.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub(super) struct Request(http::Request<Full<Bytes>>);

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn new(method: Method, path: &str, body: impl Into<Bytes>) -> Self {
        let request = http::Request::builder().method(method).uri(path).header(HOST, "localhost");
        Self(request.body(Full::new(body.into())).unwrap())
    }

    pub(super) fn get(path: &str) -> Self {
        Self::new(Method::GET, path, "")
    }

    pub(super) fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, path, body)
    }

    pub(super) fn bearer(mut self, token: &str) -> Self {
        self.0.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        self
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body of an answer that must be a 200.
    pub(super) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The HTTP status and the name of the error, in Google's shape.
    pub(super) fn error(&self) -> (u16, String) {
        let error = &self.json()["error"];
        assert_eq!(error["code"], self.status.as_u16());
        (self.status.as_u16(), error["status"].as_str().unwrap().to_owned())
    }
}

pub(super) async fn http1(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request,
) -> Answer {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request.0).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    Answer { status: head.status, headers: head.headers, body }
}

/// One gRPC call: the message of the answer, or the status and the text of the refusal.
pub(super) async fn grpc(
    endpoint: &str,
    method: &str,
    message: &[u8],
    token: Option<&str>,
) -> Result<Bytes, (u16, String)> {
    let stream = TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let mut request =
        http::Request::post(format!("{endpoint}/google.cloud.kms.v1.KeyManagementService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    let head = answer.headers().clone();
    let collected = answer.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or(head);
    let body = collected.to_bytes();
    connection.abort();
    let text = |name: &str| trailers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    match text("grpc-status").parse().unwrap() {
        0 => {
            let (header, message) = body.split_at(5);
            assert_eq!(header[0], 0);
            assert_eq!(u32::from_be_bytes(header[1..].try_into().unwrap()) as usize, message.len());
            Ok(body.slice(5..))
        }
        status => Err((status, text("grpc-message"))),
    }
}

/// The form of a token exchange, as Google's auth library writes it.
pub(super) fn exchange_form(audience: &str, subject_token: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
        .append_pair("audience", audience)
        .append_pair("scope", "https://www.googleapis.com/auth/cloud-platform")
        .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
        .append_pair("subject_token", subject_token)
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
        .finish()
}
