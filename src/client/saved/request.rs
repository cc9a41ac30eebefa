//! A failed request as a value.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::http::headers::{open_headers, sensitive_headers};
use crate::client::http::{HeaderMap, Uri};
use crate::error::escape::printable;
use crate::error::macros::debug_fields;
use crate::error::secrets::Secrets;
use crate::error::{Error, ErrorKind, Progress};
use crate::protocol::server::endpoint::Endpoint;
use crate::recording::whole_micros;

/// Limits how many causes of an error are kept, and the characters of each cause.
const MAX_CAUSES: usize = 8;
const MAX_CAUSE_CHARS: usize = 1_000;

/// A request whose stream failed, without its credentials, and the reason why it failed.
///
/// [`ApiClient::resend`](crate::ApiClient::resend) sends the request again. `Debug` shows neither
/// the prompt nor the values of headers.
///
/// ```no_run
/// use tokenwire::{ApiClient, SavedRequest};
///
/// let saved = SavedRequest::load("failed/tokenwire-failed-1763836458123-42-7.json")?;
/// println!("{}: {}", saved.failure().kind, saved.failure().message);
/// let client = ApiClient::builder(saved.base_url()).build()?;
/// let (tokens, guard) = client.resend(&saved)?;
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SavedRequest {
    pub(super) at_ms: u64,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) endpoint: Endpoint,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) call: bool,
    pub(super) redacted: bool,
    pub(super) failure: SavedFailure,
}

/// The reason why the stream of a [`SavedRequest`] failed, copied from its [`Error`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedFailure {
    /// The kind of error, as in [`ErrorKind::as_str`].
    pub kind: String,
    /// The name of the timer or of the limit that was exceeded.
    pub detail: Option<String>,
    /// The message, as in [`Error::message`].
    pub message: String,
    /// The causes of the error, the nearest cause first. The list has at most 8 causes with at most
    /// 1,000 characters each.
    pub causes: Vec<String>,
    /// The status of the response, as in [`Error::status`].
    pub status: Option<u16>,
    /// The id of the request, as in [`Error::request_id`].
    pub request_id: Option<String>,
    /// The progress of the stream when it failed. The time is rounded to microseconds.
    pub progress: Progress,
}

impl SavedRequest {
    /// Returns the time at which the request failed, rounded to milliseconds.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.at_ms)).unwrap_or(UNIX_EPOCH)
    }

    /// Returns the HTTP method, which is `POST`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the URL of the request. It contains no user name or password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the base URL for a client that sends the request to the same server again.
    ///
    /// The base URL is the URL of the request without the path of the endpoint.
    #[must_use]
    pub fn base_url(&self) -> &str {
        let (path, _) = if self.is_call() { self.endpoint.call_path() } else { self.endpoint.path() };
        self.url.strip_suffix(path).unwrap_or(&self.url)
    }

    /// Returns true if this is the request of a [`PendingCompletion`](crate::PendingCompletion).
    ///
    /// The response to such a request arrives as a whole, not as a stream.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.call
    }

    /// Returns the endpoint that was set in the client. It determines how the response is decoded.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Returns the names and values of the headers that cannot be credentials.
    ///
    /// The caller or the client has set these headers. Headers that HTTP itself needs are not
    /// saved.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the body as it was sent, byte for byte.
    ///
    /// If [`is_redacted`](Self::is_redacted) is true, the body may differ from the body that was
    /// sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }

    /// Returns true if the API key was removed from the URL, the body or a saved header.
    ///
    /// The saved request then differs from the request that was sent, and tokenwire does not send
    /// it again.
    #[must_use]
    pub fn is_redacted(&self) -> bool {
        self.redacted
    }

    /// Returns why the request failed.
    #[must_use]
    pub fn failure(&self) -> &SavedFailure {
        &self.failure
    }
}

debug_fields! { SavedRequest { at_ms, method, url, endpoint, call, redacted, failure } }

// ---- from a stream that failed ----

/// The request that a stream has sent.
pub(crate) struct Sent<'a> {
    pub(crate) url: &'a Uri,
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Vec<u8>,
    /// True if the request is for a whole response, not a stream.
    pub(crate) call: bool,
}

impl SavedRequest {
    pub(crate) fn new(sent: Sent<'_>, error: &Error) -> Self {
        let Sent { url, endpoint, headers, body, call } = sent;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = String::from_utf8(body)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let open = open_headers(headers).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut request = Self {
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            method: "POST".to_owned(),
            // `check_url` rejects a URL with a user name.
            url: url.to_string(),
            endpoint,
            headers: open.collect(),
            body,
            call,
            redacted: false,
            failure: SavedFailure::new(error, &Secrets::of(sensitive_headers(headers))),
        };
        request.redact(&Secrets::key_of(sensitive_headers(headers)));
        request
    }

    fn redact(&mut self, key: &Secrets) {
        let values = self.headers.iter_mut().map(|(_, value)| value);
        for text in values.chain([&mut self.url, &mut self.body]) {
            if let Cow::Owned(clean) = key.redact(text) {
                *text = clean;
                self.redacted = true;
            }
        }
    }
}

impl SavedFailure {
    fn new(error: &Error, secrets: &Secrets) -> Self {
        let clean = |text: &str| secrets.redact(text).into_owned();
        let detail = match error.kind() {
            ErrorKind::Timeout(timer) => Some(timer.as_str().to_owned()),
            ErrorKind::Limit(limit) => Some(limit.as_str().to_owned()),
            _ => None,
        };
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        let progress = error.progress().unwrap_or_default();
        Self {
            kind: error.kind().as_str().to_owned(),
            detail,
            message: clean(error.message()),
            causes: causes
                .take(MAX_CAUSES)
                // Remove credentials first. After escaping or shortening, the search would not find
                // them.
                .map(|cause| printable(&clean(&cause.to_string()), MAX_CAUSE_CHARS))
                .collect(),
            status: error.status(),
            request_id: error.request_id().map(clean),
            progress: Progress { elapsed: whole_micros(progress.elapsed), ..progress },
        }
    }
}
