//! The file format of a failed request.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::request::{SavedFailure, SavedRequest, micros};
use crate::client::http::headers::{check_url, is_open_header};
use crate::error::{Error, Progress};
use crate::protocol::server::endpoint::Endpoint;

/// The largest file that [`SavedRequest::load`] reads: 256 MiB. A larger file is an error.
pub const MAX_SAVED_REQUEST_BYTES: u64 = 256 << 20;

/// The version of the format, in the first field of the file.
const VERSION: u32 = 1;

impl SavedRequest {
    /// Loads a saved request from a file.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the file cannot be read, is larger than
    /// [`MAX_SAVED_REQUEST_BYTES`], or is not a complete saved request.
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

    /// Parses the text that [`to_json`](Self::to_json) returns.
    ///
    /// Headers that could be credentials are dropped, because tokenwire never saves them.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the text is not a saved request.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let form: Form<'_> = serde_json::from_slice(json)
            .map_err(|error| Error::invalid("not a saved request").with_source(error))?;
        form.into_request()
    }

    /// Returns the text of the file. Copies the body.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and parsed JSON always serialize. Loading an empty text would fail.
        let mut json = serde_json::to_string(&Form::new(self)).unwrap_or_default();
        json.push('\n');
        json
    }
}

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    tokenwire_failed_request: u32,
    at_ms: u64,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    // Earlier versions called this field `wire`.
    #[serde(alias = "wire")]
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
        // Spaces around the JSON would be lost, and `null` would be read as a missing body.
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
            return Err(Error::invalid("the saved request has a version that tokenwire does not support"));
        }
        let endpoint: Endpoint = endpoint.parse()?;
        check_url(&url)?;
        if ![endpoint.path(), endpoint.call_path()].iter().any(|(path, _)| url.ends_with(path)) {
            return Err(Error::invalid("the saved URL does not match the saved endpoint"));
        }
        let body = match (self.body, self.body_text) {
            (Some(raw), None) => raw.get().to_owned(),
            (None, Some(text)) => text.into_owned(),
            _ => return Err(Error::invalid("a saved request must have exactly one of body and body_text")),
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
