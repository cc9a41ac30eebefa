//! A failed request as a value.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::http::headers::{open_headers, sensitive_headers};
use crate::client::http::{HeaderMap, Uri};
use crate::error::escape::printable;
use crate::error::secrets::Secrets;
use crate::error::{Error, ErrorKind, Progress};
use crate::protocol::server::endpoint::Endpoint;

/// Causes behind an error that are kept, and the length of each in characters.
const MAX_CAUSES: usize = 8;
const MAX_CAUSE_CHARS: usize = 1_000;

/// A request whose stream failed, as it was saved: all of it but the credentials, and why it failed.
///
/// [`ApiClient::resend`](crate::ApiClient::resend) sends it again. `Debug` shows no prompt and no header's
/// value.
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

/// Why the stream of a [`SavedRequest`] failed: what its [`Error`] said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedFailure {
    /// [`ErrorKind::as_str`].
    pub kind: String,
    /// The name of the timer or of the limit that was passed.
    pub detail: Option<String>,
    /// [`Error::message`].
    pub message: String,
    /// What caused it, the nearest first; at most 8.
    pub causes: Vec<String>,
    /// [`Error::status`].
    pub status: Option<u16>,
    /// [`Error::request_id`].
    pub request_id: Option<String>,
    /// How far the stream had come; whole microseconds.
    pub progress: Progress,
}

impl SavedRequest {
    /// When it failed; whole milliseconds.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.at_ms)).unwrap_or(UNIX_EPOCH)
    }

    /// `POST`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Where it went. No user name or password is in it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The base URL for a client that is to send it there again: the URL without the endpoint's path.
    #[must_use]
    pub fn base_url(&self) -> &str {
        let (path, _) = if self.is_call() { self.endpoint.call_path() } else { self.endpoint.path() };
        self.url.strip_suffix(path).unwrap_or(&self.url)
    }

    /// It is the request of a [`PendingCompletion`](crate::PendingCompletion), whose answer comes whole.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.call
    }

    /// The endpoint, and how its answer is to be read: what the client had been set to.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Names and values of the headers that could not be credentials, as the caller and the client set them;
    /// not those of HTTP itself.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The body, byte for byte as it was sent, unless it [`is_redacted`](Self::is_redacted).
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }

    /// The API key stood in the request, somewhere else than in its header, and was taken out. What is left
    /// is not what was sent, and is not sent again.
    #[must_use]
    pub fn is_redacted(&self) -> bool {
        self.redacted
    }

    /// Why it failed.
    #[must_use]
    pub fn failure(&self) -> &SavedFailure {
        &self.failure
    }
}

impl fmt::Debug for SavedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, method, url, endpoint, headers, body, call, redacted, failure } = self;
        f.debug_struct("SavedRequest")
            .field("at_ms", at_ms)
            .field("method", method)
            .field("url", url)
            .field("endpoint", endpoint)
            .field("headers", &headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("body_bytes", &body.len())
            .field("call", call)
            .field("redacted", redacted)
            .field("failure", failure)
            .finish()
    }
}

// ---- from a stream that failed ----

/// What a stream had sent.
pub(crate) struct Sent<'a> {
    pub(crate) url: &'a Uri,
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Vec<u8>,
    /// It is a call's.
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
            // `check_url` lets no user name in.
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
                // Clean first: escapes and cuts would hide what is looked for.
                .map(|cause| printable(&clean(&cause.to_string()), MAX_CAUSE_CHARS))
                .collect(),
            status: error.status(),
            request_id: error.request_id().map(clean),
            progress: Progress { elapsed: whole_micros(progress.elapsed), ..progress },
        }
    }
}

/// The file keeps microseconds; cut here, so that a request equals what is loaded again.
fn whole_micros(time: Duration) -> Duration {
    Duration::from_micros(micros(time))
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
