//! The kinds of servers, with the features and field names of each.
//!
//! The module has four parts: the known servers (family.rs), the endpoints (endpoint.rs), the
//! fields of requests (fields.rs), and servers described by a record (record.rs and
//! `records/*.json`). Each part imports only from earlier parts. A record describes only requests.
//! The decoder identifies responses by their contents, not by the server.

pub(crate) mod endpoint;
pub(crate) mod family;
pub(crate) mod fields;
mod record;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value};

use self::endpoint::Endpoint;
use self::family::Family;
use self::fields::Feature;
use self::record::Record;
use crate::error::Error;

/// The maximum size of a record that [`ServerKind::from_json`] reads, in bytes.
pub const MAX_SERVER_RECORD_BYTES: usize = 256 << 10;

/// The files in `records/`, each as its name and its text.
const FILES: &[(&str, &str)] = &[("sglang_router", include_str!("records/sglang_router.json"))];

/// The servers of [`FILES`], in the same order. An invalid file gives the reason instead.
static BUILT_IN: LazyLock<Vec<(&'static str, Result<Quirks, String>)>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| (*name, Quirks::read(text))).collect());

/// The server program, which you set or tokenwire detects. It decides how a request asks for ids.
///
/// [`by_name`](Self::by_name) returns the servers that tokenwire supports. For any other server,
/// write a record in JSON and read it with [`from_json`](Self::from_json).
///
/// ```
/// use tokenwire::ServerKind;
///
/// let server = ServerKind::by_name("llamacpp")?;
/// assert_eq!(server, ServerKind::LlamaCpp);
/// assert_eq!(server.name(), "llama.cpp");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerKind {
    /// vLLM.
    Vllm,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
    /// SGLang.
    SgLang,
    /// Hugging Face's text-generation-inference.
    Tgi,
    /// TensorRT-LLM's `trtllm-serve`.
    TensorRtLlm,
    /// Ollama.
    Ollama,
    /// LM Studio.
    LmStudio,
    /// A server described by a record, which lists the differences from the known servers.
    ///
    /// The record is your own, or a file from `src/protocol/server/records/` in the repository.
    Other(Quirks),
}

/// The differences between a server and a known server. [`ServerKind::Other`] contains them.
///
/// Two values are equal if their records have the same contents.
#[derive(Clone, PartialEq)]
pub struct Quirks(Arc<Record>);

impl ServerKind {
    /// Returns the server with this name.
    ///
    /// The names are `vllm`, `llamacpp`, `sglang`, `tgi`, `tensorrt_llm`, `ollama`, `lmstudio`, and
    /// the names of the files in the repository's `src/protocol/server/records/`. A server from
    /// such a file is an [`Other`](Self::Other).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an unknown name. The message lists all
    /// names.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        if let Some(known) = Family::by_name(name) {
            return Ok(known.into());
        }
        match BUILT_IN.iter().find(|(file, _)| *file == name) {
            Some((_, Ok(quirks))) => Ok(Self::Other(quirks.clone())),
            Some((_, Err(why))) => Err(Error::invalid(format!("records/{name}.json: {why}"))),
            None => {
                let names: Vec<&str> = Family::names().chain(FILES.iter().map(|(name, _)| *name)).collect();
                Err(Error::invalid(format!("unknown server {name:?}, expected one of {}", names.join(", "))))
            }
        }
    }

    /// Creates a server from a record in JSON.
    ///
    /// The files in the repository's `src/protocol/server/records/` are such records, and the
    /// README in that folder explains each key. [`by_name`](Self::by_name) and
    /// [`ApiClient::server`](crate::ApiClient::server) do not find a server from your record. Pass
    /// the server to [`ApiClientBuilder::server`](crate::ApiClientBuilder::server).
    ///
    /// ```
    /// use tokenwire::{CompletionRequest, SamplingParams, ServerKind, Endpoint};
    ///
    /// let server = ServerKind::from_json(
    ///     r#"{
    ///         "name": "mine",
    ///         "about": "A server of my own.",
    ///         "renames": {"max_tokens": "max_new_tokens"},
    ///         "sets": {"with_ids": true},
    ///         "refuses": {"min_p": "it takes the field and samples without it"}
    ///     }"#,
    /// )?;
    /// let limited = CompletionRequest::text("Hi").sampling(SamplingParams::default().max_tokens(5));
    /// let body = String::from_utf8(limited.to_json(None, Endpoint::OpenAi, Some(&server))?)?;
    /// assert!(body.contains(r#""max_new_tokens":5"#) && body.contains(r#""with_ids":true"#));
    ///
    /// let sampled = CompletionRequest::text("Hi").sampling(SamplingParams::default().min_p(0.1));
    /// let error = sampled.to_json(None, Endpoint::OpenAi, Some(&server)).unwrap_err();
    /// assert!(error.to_string().contains("it takes the field and samples without it"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an invalid record, or for a record of
    /// more than [`MAX_SERVER_RECORD_BYTES`] bytes. The message for an invalid record contains the
    /// line and the column, or the key.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_SERVER_RECORD_BYTES {
            let (n, max) = (text.len(), MAX_SERVER_RECORD_BYTES);
            return Err(Error::invalid(format!("not a server record: {n} bytes, the limit is {max}")));
        }
        let read = Quirks::read(text);
        read.map(Self::Other).map_err(|why| Error::invalid(format!("not a server record: {why}")))
    }

    /// Returns the display name, as the server's makers write it.
    ///
    /// [`by_name`](Self::by_name) takes a different name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Other(quirks) => quirks.0.title.as_deref().unwrap_or(quirks.name()),
            known => known.family().map_or("", Family::title),
        }
    }

    /// Returns the known server with the same endpoints and fields.
    ///
    /// Returns `None` for a record without `like`. Its server has the plain OpenAI fields.
    pub(crate) fn family(&self) -> Option<Family> {
        match self {
            Self::Other(quirks) => quirks.0.family(),
            known => Family::ALL.iter().copied().find(|family| Self::from(*family) == *known),
        }
    }

    /// Returns true if each stream on this endpoint has ids when the request asks for ids.
    pub(crate) fn gives_ids(&self, endpoint: Endpoint) -> bool {
        let stated = self.quirks().and_then(|quirks| quirks.0.gives_ids);
        stated.unwrap_or_else(|| self.family().is_some_and(|family| family.gives_ids(endpoint)))
    }

    pub(crate) fn quirks(&self) -> Option<&Quirks> {
        if let Self::Other(quirks) = self { Some(quirks) } else { None }
    }

    /// Returns the server whose list of models has this `owned_by`.
    ///
    /// The result can also be a server from `records/`.
    pub(crate) fn by_owner(owner: &str) -> Option<Self> {
        let read = || BUILT_IN.iter().filter_map(|(_, read)| read.as_ref().ok());
        Family::by_owner(owner).map(Self::from).or_else(|| by_owner(read(), owner).map(Self::Other))
    }
}

fn by_owner<'a>(mut among: impl Iterator<Item = &'a Quirks>, owner: &str) -> Option<Quirks> {
    among.find(|quirks| quirks.0.owned_by() == Some(owner)).cloned()
}

impl From<Family> for ServerKind {
    fn from(family: Family) -> Self {
        match family {
            Family::Vllm => Self::Vllm,
            Family::LlamaCpp => Self::LlamaCpp,
            Family::SgLang => Self::SgLang,
            Family::Tgi => Self::Tgi,
            Family::TensorRtLlm => Self::TensorRtLlm,
            Family::Ollama => Self::Ollama,
            Family::LmStudio => Self::LmStudio,
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Quirks {
    fn read(text: &str) -> Result<Self, String> {
        record::read(text).map(|record| Self(Arc::new(record)))
    }

    /// Returns the name in the record.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Returns the server's name for a field, or `None` if the request leaves out the field.
    pub(crate) fn field<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        let renames = &self.0.renames;
        match renames.get(key) {
            Some(renamed) => renamed.as_deref(),
            // On this server, `key` is the new name of another field in `renames`.
            None if renames.values().flatten().any(|taken| taken == key) => None,
            None => Some(key),
        }
    }

    /// Returns the fields that are added to every request.
    pub(crate) fn sets(&self) -> &Map<String, Value> {
        &self.0.sets
    }

    /// Returns the features that the server would ignore or get wrong, each with the reason.
    pub(crate) fn refuses(&self) -> impl Iterator<Item = (Feature, &str)> {
        let named = |(name, reason)| Some((Feature::by_name(name)?, reason));
        self.0.refuses.iter().filter_map(move |(name, reason)| named((name.as_str(), reason.as_str())))
    }
}

impl Eq for Quirks {}

impl Hash for Quirks {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Quirks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Quirks").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_owner_of_the_models_identifies_a_server_with_a_record() {
        let read = |text: &str| ServerKind::from_json(text).unwrap().quirks().unwrap().clone();
        let silent = read(r#"{"name": "silent", "about": ""}"#);
        let told = read(r#"{"name": "told", "about": "", "identified_by": {"owned_by": "me"}}"#);
        let both = [silent, told.clone()];
        let found = |owner| by_owner(both.iter(), owner);
        assert_eq!(found("me"), Some(told));
        assert_eq!((found("you"), found("told")), (None, None));
    }

    #[test]
    fn ids_are_expected_if_the_record_or_the_known_server_gives_them() {
        for (rest, due) in [
            ("", [false, false]),
            (r#", "gives_ids": true"#, [true, true]),
            (r#", "like": "vllm""#, [true, true]),
            (r#", "like": "vllm", "gives_ids": false"#, [false, false]),
            (r#", "like": "sglang""#, [false, true]),
            (r#", "like": "ollama""#, [false, false]),
        ] {
            let record = format!(r#"{{"name": "mine", "about": ""{rest}}}"#);
            let server = ServerKind::from_json(&record).unwrap();
            assert_eq!(
                [Endpoint::OpenAi, Endpoint::SgLang].map(|endpoint| server.gives_ids(endpoint)),
                due,
                "{rest}"
            );
        }
    }

    #[test]
    fn every_record_in_the_folder_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/server/records");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string());
        let mut names: Vec<String> =
            files.filter_map(|name| name.unwrap().strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        assert_eq!(FILES.iter().map(|file| file.0).collect::<Vec<_>>(), names);
    }
}
