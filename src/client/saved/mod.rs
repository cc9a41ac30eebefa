//! Failed requests, saved to be sent again: what a file holds. Where files are put, and how, is in folder.rs.
//!
//! Off unless a folder is given ([`ApiClientBuilder::save_failed`](crate::ApiClientBuilder::save_failed)).
//! Then each stream that fails leaves one file, a JSON object on one line (broken up here):
//!
//! ```text
//! {"tokenwire_failed_request":1,"at_ms":1763836458123,"method":"POST",
//!  "url":"http://127.0.0.1:8000/v1/completions","endpoint":"auto","headers":[["accept","text/event-stream"]],
//!  "call":false,"redacted":false,
//!  "failure":{"kind":"timeout","detail":"chunk","message":"...","causes":[],"status":null,
//!   "request_id":"cmpl-7","tokens":2,"events":3,"bytes":412,"elapsed_us":120016225},
//!  "body":{"prompt":[785,6722],"stream":true}}
//! ```
//!
//! The body stands as the JSON that was sent, byte for byte; what is no JSON stands as a string, `body_text`.
//! The prompt is in it, that is the point; of the answer there is nothing but the server's error message.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ureq::http::{HeaderMap, Uri};

use super::http::{check_url, is_open_header, open_headers};
use crate::error::escape::printable;
use crate::error::secrets::Secrets;
use crate::error::{Error, ErrorKind, Progress};
use crate::protocol::server::endpoint::Endpoint;

pub(crate) mod folder;

pub(crate) use self::folder::Folder;

/// The largest file that [`SavedRequest::load`] reads, 256 MiB. A larger one is an error.
pub const MAX_SAVED_REQUEST_BYTES: u64 = 256 << 20;

/// The number in the file's first field.
const VERSION: u32 = 1;
/// Causes behind an error that are kept, and the length of each in characters.
const MAX_CAUSES: usize = 8;
const MAX_CAUSE_CHARS: usize = 1_000;

// ---- the value ----

/// A request whose stream failed, as it was saved: all of it but the credentials, and why it failed.
///
/// [`ApiClient::resend`](crate::ApiClient::resend) sends it again. `Debug` shows no prompt and no header's
/// value.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedRequest {
    at_ms: u64,
    method: String,
    url: String,
    endpoint: Endpoint,
    headers: Vec<(String, String)>,
    body: String,
    call: bool,
    redacted: bool,
    failure: SavedFailure,
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
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput): the file cannot be read, is larger than
    /// [`MAX_SAVED_REQUEST_BYTES`], or is no whole saved request.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let problem =
            |what: &str| Error::invalid(format!("{what} the saved request {:?}", path.display().to_string()));
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SAVED_REQUEST_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| problem("cannot read").with_source(error))?;
        if bytes.len() as u64 > MAX_SAVED_REQUEST_BYTES {
            return Err(problem(&format!("over {MAX_SAVED_REQUEST_BYTES} bytes in")));
        }
        Self::from_json(&bytes)
    }

    /// Reads what [`to_json`](Self::to_json) wrote. Headers that would not have been saved, because they
    /// could be credentials, are dropped.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for anything else.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let form: Form<'_> = serde_json::from_slice(json)
            .map_err(|error| Error::invalid("this is no saved request").with_source(error))?;
        form.into_request()
    }

    /// The file's text. Copies the body.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and JSON that was parsed always serialize; nothing would be refused when read.
        let mut json = serde_json::to_string(&Form::new(self)).unwrap_or_default();
        json.push('\n');
        json
    }

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
            .field("wire", endpoint)
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
            failure: SavedFailure::new(error, &Secrets::of(headers)),
        };
        request.redact(&Secrets::key_of(headers));
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

// ---- the file ----

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    tokenwire_failed_request: u32,
    at_ms: u64,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    endpoint: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(default)]
    call: bool,
    redacted: bool,
    #[serde(borrow)]
    failure: FailureForm<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body_text: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct FailureForm<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    detail: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    causes: Vec<Cow<'a, str>>,
    status: Option<u16>,
    request_id: Option<Cow<'a, str>>,
    tokens: u64,
    events: u64,
    bytes: u64,
    elapsed_us: u64,
}

impl<'a> Form<'a> {
    fn new(request: &'a SavedRequest) -> Self {
        let SavedRequest { at_ms, method, url, endpoint, headers, body, call, redacted, failure } = request;
        let SavedFailure { kind, detail, message, causes, status, request_id, progress } = failure;
        let Progress { bytes, events, tokens, elapsed } = *progress;
        // JSON with blanks around it would lose them, and null would be no body.
        let raw: Option<&RawValue> = serde_json::from_str(body).ok();
        let raw = raw.filter(|raw| raw.get().len() == body.len() && body != "null");
        Form {
            tokenwire_failed_request: VERSION,
            at_ms: *at_ms,
            method: method.into(),
            url: url.into(),
            endpoint: endpoint.as_str().into(),
            headers: headers.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            call: *call,
            redacted: *redacted,
            failure: FailureForm {
                kind: kind.into(),
                detail: detail.as_deref().map(Cow::from),
                message: message.into(),
                causes: causes.iter().map(Cow::from).collect(),
                status: *status,
                request_id: request_id.as_deref().map(Cow::from),
                tokens,
                events,
                bytes,
                elapsed_us: micros(elapsed),
            },
            body: raw,
            body_text: raw.is_none().then_some(body.into()),
        }
    }

    fn into_request(self) -> Result<SavedRequest, Error> {
        let Form { tokenwire_failed_request, at_ms, method, url, endpoint, headers, call, redacted, .. } =
            self;
        if tokenwire_failed_request != VERSION {
            return Err(Error::invalid("a saved request of a version that is not known here"));
        }
        let endpoint: Endpoint = endpoint.parse()?;
        check_url(&url)?;
        if ![endpoint.path(), endpoint.call_path()].iter().any(|(path, _)| url.ends_with(path)) {
            return Err(Error::invalid("the saved URL is none of the saved wire"));
        }
        let body = match (self.body, self.body_text) {
            (Some(raw), None) => raw.get().to_owned(),
            (None, Some(text)) => text.into_owned(),
            _ => return Err(Error::invalid("a saved request has one body")),
        };
        let FailureForm { kind, detail, message, causes, status, request_id, .. } = self.failure;
        let FailureForm { tokens, events, bytes, elapsed_us, .. } = self.failure;
        let elapsed = Duration::from_micros(elapsed_us);
        Ok(SavedRequest {
            at_ms,
            method: method.into_owned(),
            url: url.into_owned(),
            endpoint,
            headers: headers
                .into_iter()
                .filter(|(name, _)| is_open_header(name))
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
            body,
            call,
            redacted,
            failure: SavedFailure {
                kind: kind.into_owned(),
                detail: detail.map(Cow::into_owned),
                message: message.into_owned(),
                causes: causes.into_iter().map(Cow::into_owned).collect(),
                status,
                request_id: request_id.map(Cow::into_owned),
                progress: Progress { bytes, events, tokens, elapsed },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::http::header;
    use crate::error::{Limit, ServerError, Timer};

    const KEY: &str = "sk-canary-0001";
    const OTHER: &str = "canary-0002-of-a-gateway";

    pub(super) fn saved(body: &str, error: &Error) -> SavedRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "text/event-stream"),
            ("x-request-id", "r-1"),
            ("x-gateway", OTHER),
            ("x-affinity", "s"),
        ] {
            let (name, value) = header(name, value).unwrap();
            headers.insert(name, value);
        }
        let (name, value) = header("authorization", &format!("Bearer {KEY}")).unwrap();
        headers.insert(name, value);
        let url = check_url("http://h.test:8000/v1/completions").unwrap();
        let body = body.as_bytes().to_vec();
        SavedRequest::new(
            Sent { url: &url, endpoint: Endpoint::Auto, headers: &headers, body, call: false },
            error,
        )
    }

    fn errors() -> [Error; 4] {
        let progress =
            Progress { bytes: u64::MAX, events: 3, tokens: 2, elapsed: Duration::from_nanos(1_234_567) };
        let said =
            ServerError { status: Some(503), message: format!("no {OTHER} \"é\"\n"), ..Default::default() };
        [
            Error::timeout(Timer::Chunk, Duration::from_secs(1)).with_progress(progress),
            Error::server(said).with_request_id(Some("r\u{1}")),
            Error::limit(Limit::EventBytes, 7),
            Error::new(ErrorKind::Connect, "could not connect").with_source(std::io::Error::other(KEY)),
        ]
    }

    #[test]
    fn what_is_saved_loads_back_equal_with_every_byte_of_the_body() {
        let bodies = [
            r#"{"z":1,"a":[785, 6722],"f":1.50,"big":123456789012345678901234567890,"é":"\u00e9\n"}"#,
            "[1,\n2]",
            "",
            "null",
            "no JSON \"\u{1f600}\" \\",
            " {\"blanks\":1} ",
            "{\"twice\":1}{}",
        ];
        for error in errors() {
            for body in bodies {
                let request = saved(body, &error);
                let json = request.to_json();
                let loaded = SavedRequest::from_json(json.as_bytes()).unwrap();
                assert_eq!(loaded, request);
                assert_eq!(loaded.body(), body.as_bytes());
                assert_eq!(
                    serde_json::from_str::<serde_json::Value>(&json).unwrap()["tokenwire_failed_request"],
                    1
                );
            }
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let request = saved(&deep, &errors()[0]);
        assert_eq!(SavedRequest::from_json(request.to_json().as_bytes()).unwrap(), request);
    }

    #[test]
    fn a_file_that_breaks_off_or_has_a_wrong_byte_is_an_error_and_no_panic() {
        for body in [r#"{"prompt":[1,2],"text":"é"}"#, "no JSON"] {
            let json = saved(body, &errors()[1]).to_json().into_bytes();
            // Only the line's end may be missing.
            for cut in 0..json.len() - 1 {
                let error = SavedRequest::from_json(&json[..cut]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "cut at {cut}");
            }
            for at in 0..json.len() {
                for byte in [0, b'"', b'}', b'9', 0xff] {
                    let mut damaged = json.clone();
                    damaged[at] = byte;
                    let _ = SavedRequest::from_json(&damaged);
                }
            }
        }
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let json = saved("{}", &errors()[0]).to_json();
        let changed = |from: &str, to: &str| {
            assert!(json.contains(from), "{from}");
            SavedRequest::from_json(json.replace(from, to).as_bytes())
        };
        for (from, to) in [
            ("request\":1", "request\":2"),
            ("\"auto\"", "\"morse\""),
            ("\"auto\"", "\"llamacpp\""),
            ("http://h.test", "http://user:pass@h.test"),
            ("http://h.test", "file://h.test"),
            ("\"body\":{}", "\"body\":{},\"body_text\":\"\""),
            ("\"body\":{}", "\"nobody\":{}"),
            ("\"tokens\":2", "\"tokens\":-2"),
        ] {
            assert_eq!(changed(from, to).unwrap_err().kind(), ErrorKind::InvalidInput, "{to}");
        }
        // What could be a credential is not sent again, whoever wrote it there.
        let planted =
            changed("[\"accept\"", "[\"authorization\",\"x\"],[\"Host\",\"x\"],[\"accept\"").unwrap();
        assert_eq!(planted.headers().map(|(name, _)| name).collect::<Vec<_>>(), ["accept", "x-request-id"]);
    }

    #[test]
    fn no_credential_is_in_the_file_or_in_debug_wherever_it_stood() {
        for error in errors() {
            for body in [r#"{"prompt":"Hi"}"#, &format!(r#"{{"prompt":"my key is {KEY}"}}"#)] {
                let request = saved(body, &error);
                let shown = format!("{}{request:?}", request.to_json());
                assert!(!shown.contains(KEY) && !shown.contains(OTHER), "{shown}");
                assert_eq!(request.is_redacted(), body.contains(KEY));
                assert!(!format!("{request:?}").contains("prompt"));
            }
        }
        let [.., cause] = errors();
        assert_eq!(saved("{}", &cause).failure().causes, ["[redacted]"]);
    }

    #[test]
    fn the_base_url_is_the_one_that_leads_there_again() {
        for (endpoint, url, base) in [
            (Endpoint::Auto, "http://h.test/v1/completions", "http://h.test/v1"),
            (Endpoint::LlamaCpp, "http://h.test/completion", "http://h.test"),
            (Endpoint::VllmGenerate, "https://h.test/p/inference/v1/generate", "https://h.test/p"),
        ] {
            let request = SavedRequest { endpoint, url: url.to_owned(), ..saved("{}", &errors()[0]) };
            assert_eq!(request.base_url(), base);
        }
    }
}
