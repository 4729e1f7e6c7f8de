//! A Schema Registry, spoken to over Confluent's HTTP API: the latest schema of a subject, and registering one.
//!
//! Nothing here waits for more than the configured timeout, and no answer is read beyond [`ANSWER_BYTES_MAX`].

mod connection;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;

use crate::config::{Encoding, Registry};

/// Longest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Media type of the API.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.schemaregistry.v1+json");
/// Longest part of a registry's words that is passed on.
const WORDS_CHARS_MAX: usize = 300;

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or no answer in time.
    #[error("schema registry {url} cannot be reached: {why}")]
    Unreachable {
        /// Where it is.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// It answered that it will not do that.
    #[error("schema registry {url} refuses {what}: {status} {words}")]
    Refused {
        /// Where it is.
        url: String,
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// Its own words.
        words: String,
    },
    /// It answered with something else than the API says.
    #[error("schema registry {url} gives an answer to {what} that is none of its API: {why}")]
    Unintelligible {
        /// Where it is.
        url: String,
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl RegistryError {
    /// A short word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Unintelligible { .. } => "unintelligible",
        }
    }
}

/// A registry's answer to a version of a subject.
#[derive(Deserialize)]
struct Version {
    schema: String,
}

/// Its answer to a registration.
#[derive(Deserialize)]
struct Id {
    id: u32,
}

/// Its words where it refuses.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

/// A registry. Each request has a connection of its own: there are few, and far between.
#[derive(Debug, Clone)]
pub struct Client {
    settings: Registry,
}

impl Client {
    /// For the registry as it is configured.
    pub fn new(settings: Registry) -> Self {
        Self { settings }
    }

    /// The schema that was registered last for `subject`, if any.
    ///
    /// # Errors
    /// No answer, or another than the API says.
    pub async fn latest(&self, subject: &str) -> Result<Option<String>, RegistryError> {
        let what = format!("the latest version of {subject:?}");
        let path = format!("/subjects/{subject}/versions/latest");
        let (status, body) = self.ask(Method::GET, &path, None).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => Ok(Some(self.read::<Version>(&what, &body)?.schema)),
            status => Err(self.refused(what, status, &body)),
        }
    }

    /// Registers a schema for `subject`; gives its id, the old one where it was registered before.
    ///
    /// # Errors
    /// No answer, or the schema is refused: it is not compatible with earlier ones, or we may not.
    pub async fn register(&self, subject: &str, encoding: Encoding, schema: &str) -> Result<u32, RegistryError> {
        let what = format!("a schema for {subject:?}");
        let kind = match encoding {
            Encoding::Protobuf => "PROTOBUF",
            Encoding::Avro | Encoding::Json => "AVRO",
        };
        let body = serde_json::json!({ "schemaType": kind, "schema": schema }).to_string();
        let path = format!("/subjects/{subject}/versions");
        let (status, body) = self.ask(Method::POST, &path, Some(body)).await?;
        match status {
            StatusCode::OK | StatusCode::CREATED => Ok(self.read::<Id>(&what, &body)?.id),
            status => Err(self.refused(what, status, &body)),
        }
    }

    fn read<'b, T: Deserialize<'b>>(&self, what: &str, body: &'b [u8]) -> Result<T, RegistryError> {
        serde_json::from_slice(body).map_err(|error| self.unintelligible(what, error.to_string()))
    }

    fn unintelligible(&self, what: &str, why: String) -> RegistryError {
        RegistryError::Unintelligible { url: self.settings.url(), what: what.to_owned(), why }
    }

    fn unreachable(&self, why: impl Into<String>) -> RegistryError {
        RegistryError::Unreachable { url: self.settings.url(), why: why.into() }
    }

    fn refused(&self, what: String, status: StatusCode, body: &[u8]) -> RegistryError {
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return self.unreachable(format!("it says {status} to {what}"));
        }
        let words = match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        };
        let words = words.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect();
        RegistryError::Refused { url: self.settings.url(), what, status: status.as_u16(), words }
    }

    /// One request within the timeout.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, Bytes), RegistryError> {
        let request = self.request(method, path, body)?;
        match tokio::time::timeout(self.settings.timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {:?}", self.settings.timeout))),
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<String>) -> Result<Request<Full<Bytes>>, RegistryError> {
        let url = self.settings.url();
        let authority = url.split_once("://").map_or("", |(_, rest)| rest).split('/').next().unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.settings.path))
            .header(HOST, authority)
            .header(ACCEPT, MEDIA_TYPE)
            .header(CONNECTION, "close");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE);
        }
        if let Some(credentials) = self.credentials() {
            request = request.header(AUTHORIZATION, credentials);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        request.body(body).map_err(|error| self.unreachable(format!("no request can be made: {error}")))
    }

    /// Basic authentication (RFC 7617).
    fn credentials(&self) -> Option<HeaderValue> {
        use base64::Engine as _;
        let username = self.settings.username.as_deref()?;
        let password = self.settings.password.as_ref().map_or("", |password| password.0.as_str());
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), RegistryError> {
        let stream = connection::open(&self.settings).await.map_err(|error| self.unreachable(format!("{error:#}")))?;
        let handshake = hyper::client::conn::http1::handshake(stream).await;
        let (mut sender, connection) = handshake.map_err(|error| self.unreachable(error.to_string()))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok::<_, hyper::Error>((status, body))
        };
        let mut exchange = std::pin::pin!(exchange);
        // The connection moves only while it is polled. It may end before the answer is read to its end.
        let outcome = tokio::select! {
            outcome = &mut exchange => outcome,
            _ = connection => exchange.await,
        };
        let (status, body) = outcome.map_err(|error| self.unreachable(error.to_string()))?;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => Err(self.unintelligible("a request", format!("{error}, limit is {ANSWER_BYTES_MAX} bytes"))),
        }
    }
}
