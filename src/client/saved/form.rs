//! The file format of a failed request.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::request::{SavedFailure, SavedRequest};
use crate::client::http::headers::{check_url, is_open_header};
use crate::error::{Error, Progress};
use crate::protocol::server::endpoint::Endpoint;
use crate::recording::micros;

/// Limits the file that [`SavedRequest::load`] reads to 256 MiB. A larger file is an error.
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
        // Strings, numbers and parsed JSON always serialize. If this ever failed, the text would be
        // empty, and loading an empty text returns an error.
        let mut json = serde_json::to_string(&Form::new(self)).unwrap_or_default();
        json.push('\n');
        json
    }
}

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    tokenwire_failed_request: u32,
    at_ms: u64,
    method: String,
    url: String,
    // Earlier versions called this field `wire`.
    #[serde(alias = "wire")]
    endpoint: String,
    headers: Vec<(String, String)>,
    #[serde(default)]
    call: bool,
    redacted: bool,
    #[serde(with = "FailureForm")]
    failure: SavedFailure,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body_text: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SavedFailure")]
struct FailureForm {
    kind: String,
    detail: Option<String>,
    message: String,
    causes: Vec<String>,
    status: Option<u16>,
    request_id: Option<String>,
    #[serde(flatten, with = "ProgressForm")]
    progress: Progress,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Progress")]
struct ProgressForm {
    tokens: u64,
    events: u64,
    bytes: u64,
    #[serde(rename = "elapsed_us", serialize_with = "as_micros", deserialize_with = "from_micros")]
    elapsed: Duration,
}

fn as_micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(micros(*time))
}

fn from_micros<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_micros)
}

impl<'a> Form<'a> {
    fn new(request: &'a SavedRequest) -> Self {
        let SavedRequest { at_ms, method, url, endpoint, headers, body, call, redacted, failure } = request;
        // A body with spaces around its JSON is stored as a string, because the spaces would be
        // lost. The body `null` is also stored as a string, because it would be read as a missing
        // body.
        let raw: Option<&RawValue> = serde_json::from_str(body).ok();
        let raw = raw.filter(|raw| raw.get().len() == body.len() && body != "null");
        Form {
            tokenwire_failed_request: VERSION,
            at_ms: *at_ms,
            method: method.clone(),
            url: url.clone(),
            endpoint: endpoint.as_str().to_owned(),
            headers: headers.clone(),
            call: *call,
            redacted: *redacted,
            failure: failure.clone(),
            body: raw,
            body_text: raw.is_none().then_some(body.into()),
        }
    }

    fn into_request(self) -> Result<SavedRequest, Error> {
        let Form { at_ms, method, url, mut headers, call, redacted, failure, .. } = self;
        if self.tokenwire_failed_request != VERSION {
            return Err(Error::invalid("the saved request has a version that tokenwire does not support"));
        }
        let endpoint: Endpoint = self.endpoint.parse()?;
        check_url(&url)?;
        if ![endpoint.path(), endpoint.call_path()].iter().any(|(path, _)| url.ends_with(path)) {
            return Err(Error::invalid("the saved URL does not match the saved endpoint"));
        }
        let body = match (self.body, self.body_text) {
            (Some(raw), None) => raw.get().to_owned(),
            (None, Some(text)) => text.into_owned(),
            _ => return Err(Error::invalid("a saved request must have exactly one of body and body_text")),
        };
        headers.retain(|(name, _)| is_open_header(name));
        Ok(SavedRequest { at_ms, method, url, endpoint, headers, body, call, redacted, failure })
    }
}
