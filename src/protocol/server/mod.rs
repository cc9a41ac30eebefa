//! Which server is at the other end, what it accepts and what it calls it.
//!
//! Four files, each importing only from those before it: the known servers (family.rs), the endpoints (endpoint.rs), the fields
//! of requests (fields.rs), and servers described by a record (record.rs, and `records/*.json`). A record says what is sent.
//! The answer is decoded by its contents, whoever sends it.

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

/// The longest record that [`ServerKind::from_json`] reads, in bytes.
pub const MAX_SERVER_RECORD_BYTES: usize = 256 << 10;

/// The files of `records/`, each its name and its text.
const FILES: &[(&str, &str)] = &[("sglang_router", include_str!("records/sglang_router.json"))];

/// The servers of [`FILES`], in their order; of a file that cannot be read, why.
static BUILT_IN: LazyLock<Vec<(&'static str, Result<Quirks, String>)>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| (*name, Quirks::read(text))).collect());

/// The program at the other end, as it was told or learned; it decides how ids are asked for.
///
/// [`by_name`](Self::by_name) has all that are known; one of your own is a record in JSON ([`from_json`](Self::from_json)).
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
    /// One that a record says how it differs from these: a file in the repository's `src/protocol/server/records/`, or one of your own.
    Other(Quirks),
}

/// How a server differs from one that is known: what [`ServerKind::Other`] holds. Two are equal if their records say the same.
#[derive(Clone, PartialEq)]
pub struct Quirks(Arc<Record>);

impl ServerKind {
    /// The server of this name: `vllm`, `llamacpp`, `sglang`, `tgi`, `tensorrt_llm`, `ollama`, `lmstudio`, or that of a file
    /// in the repository's `src/protocol/server/records/`, which is then [`Other`](Self::Other).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the names there are.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        if let Some(known) = Family::by_name(name) {
            return Ok(known.into());
        }
        match BUILT_IN.iter().find(|(file, _)| *file == name) {
            Some((_, Ok(quirks))) => Ok(Self::Other(quirks.clone())),
            Some((_, Err(why))) => Err(Error::invalid(format!("records/{name}.json: {why}"))),
            None => {
                let known = Family::NAMED.iter().map(|(name, _)| *name);
                let names: Vec<&str> = known.chain(FILES.iter().map(|(name, _)| *name)).collect();
                Err(Error::invalid(format!("no server is called {name:?}; there are {}", names.join(", "))))
            }
        }
    }

    /// A server of your own, out of a record in JSON: what the files in the repository's `src/protocol/server/records/` are, whose README
    /// says what each key means. [`by_name`](Self::by_name) does not know it, and
    /// [`ApiClient::server`](crate::ApiClient::server) does not find it: say it to
    /// [`ApiClientBuilder::server`](crate::ApiClientBuilder::server).
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with line and column or the key, for what is no such record, and for
    /// more than [`MAX_SERVER_RECORD_BYTES`] bytes.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_SERVER_RECORD_BYTES {
            let (n, max) = (text.len(), MAX_SERVER_RECORD_BYTES);
            return Err(Error::invalid(format!("not a server's record: {n} bytes are more than {max}")));
        }
        let read = Quirks::read(text);
        read.map(Self::Other).map_err(|why| Error::invalid(format!("not a server's record: {why}")))
    }

    /// The name for people, as its makers write it. Not the one that [`by_name`](Self::by_name) takes.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Other(quirks) => quirks.0.title.as_deref().unwrap_or(quirks.name()),
            known => known.family().map_or("", Family::title),
        }
    }

    /// The known server whose endpoints and fields it has. `None`: its record names none, and it has plain OpenAI fields.
    pub(crate) fn family(&self) -> Option<Family> {
        Some(match self {
            Self::Vllm => Family::Vllm,
            Self::LlamaCpp => Family::LlamaCpp,
            Self::SgLang => Family::SgLang,
            Self::Tgi => Family::Tgi,
            Self::TensorRtLlm => Family::TensorRtLlm,
            Self::Ollama => Family::Ollama,
            Self::LmStudio => Family::LmStudio,
            Self::Other(quirks) => return quirks.0.family(),
        })
    }

    /// Whether each of its streams on this endpoint has ids, if they are asked for.
    pub(crate) fn gives_ids(&self, endpoint: Endpoint) -> bool {
        let stated = self.quirks().and_then(|quirks| quirks.0.gives_ids);
        stated.unwrap_or_else(|| self.family().is_some_and(|family| family.gives_ids(endpoint)))
    }

    pub(crate) fn quirks(&self) -> Option<&Quirks> {
        if let Self::Other(quirks) = self { Some(quirks) } else { None }
    }

    /// The server whose list of models has this `owned_by`, by itself or by its record.
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

    /// The name in the record.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// What it calls this field of ours; `None`: it is left out.
    pub(crate) fn field<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        let renames = &self.0.renames;
        match renames.get(key) {
            Some(renamed) => renamed.as_deref(),
            // Another field of ours goes by this name there: that one is meant.
            None if renames.values().flatten().any(|taken| taken == key) => None,
            None => Some(key),
        }
    }

    /// What every request to it has too.
    pub(crate) fn sets(&self) -> &Map<String, Value> {
        &self.0.sets
    }

    /// What it would ignore or get wrong, and why that is known.
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
    fn a_list_of_models_tells_the_server_whose_record_names_their_owner() {
        let read = |text: &str| ServerKind::from_json(text).unwrap().quirks().unwrap().clone();
        let silent = read(r#"{"name": "silent", "about": ""}"#);
        let told = read(r#"{"name": "told", "about": "", "identified_by": {"owned_by": "me"}}"#);
        let both = [silent, told.clone()];
        let found = |owner| by_owner(both.iter(), owner);
        assert_eq!(found("me"), Some(told));
        assert_eq!((found("you"), found("told")), (None, None));
    }

    #[test]
    fn ids_are_due_if_the_record_says_so_or_the_known_server_gives_them() {
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
    fn the_list_of_records_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/server/records");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string());
        let mut names: Vec<String> =
            files.filter_map(|name| name.unwrap().strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        assert_eq!(FILES.iter().map(|file| file.0).collect::<Vec<_>>(), names);
    }
}
