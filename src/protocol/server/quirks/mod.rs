//! Servers beyond those that are known here by themselves: a record, a file in `servers/`, says which of those one is like,
//! and how it differs.
//!
//! It says what is sent. What comes back is told by what is in it, whoever sends it.

mod record;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use self::record::Record;
use super::records::Kept;
use crate::error::Error;
use crate::protocol::chunk::endpoint::ServerKind;

/// The longest record that [`ServerKind::from_json`] reads, in bytes.
pub const MAX_SERVER_RECORD_BYTES: usize = 256 << 10;

/// How many different records [`ServerKind::from_json`] reads in one program.
pub const MAX_SERVER_RECORDS: usize = 256;

/// How a server differs from one that is known: what [`ServerKind::Other`] holds. Two are equal if they were made of the same
/// record.
#[derive(Clone, Copy)]
pub struct Quirks(&'static Record);

/// The servers that are known without a record, under the names that records and [`ServerKind::by_name`] have for them.
const KNOWN: [(&str, ServerKind); 7] = [
    ("vllm", ServerKind::Vllm),
    ("llamacpp", ServerKind::LlamaCpp),
    ("sglang", ServerKind::SgLang),
    ("tgi", ServerKind::Tgi),
    ("tensorrt_llm", ServerKind::TensorRtLlm),
    ("ollama", ServerKind::Ollama),
    ("lmstudio", ServerKind::LmStudio),
];

/// The files of `servers/`, each its name and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/servers.rs"));

/// What the crate brings, in the order of the names; of a file that cannot be read, why.
static BUILT_IN: LazyLock<Vec<(&'static str, Result<Quirks, String>)>> = LazyLock::new(|| {
    FILES.iter().map(|(name, text)| (*name, record::read(text).map(|record| Quirks(keep(record))))).collect()
});

/// The records read by [`ServerKind::from_json`], and what they are.
static READ: Kept<Record> =
    Kept::new(("server's record", "servers' records"), MAX_SERVER_RECORD_BYTES, MAX_SERVER_RECORDS);

impl ServerKind {
    /// The server of this name: `vllm`, `llamacpp`, `sglang`, `tgi`, `tensorrt_llm`, `ollama`, `lmstudio`, or that of a file
    /// in the repository's `servers/`, which is then [`Other`](Self::Other).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the names there are.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        if let Some(known) = known(name) {
            return Ok(known);
        }
        match BUILT_IN.iter().find(|(file, _)| *file == name) {
            Some((_, Ok(quirks))) => Ok(Self::Other(*quirks)),
            Some((_, Err(why))) => Err(Error::invalid(format!("servers/{name}.json: {why}"))),
            None => {
                let names = KNOWN.iter().map(|(name, _)| *name).chain(BUILT_IN.iter().map(|(name, _)| *name));
                let names: Vec<&str> = names.collect();
                Err(Error::invalid(format!("no server is called {name:?}; there are {}", names.join(", "))))
            }
        }
    }

    /// A server of your own, out of a record in JSON: what the files in the repository's `servers/` are, whose README says
    /// what each key means. [`by_name`](Self::by_name) does not know it, and
    /// [`ApiClient::server`](crate::ApiClient::server) does not find it: say it to
    /// [`ApiClientBuilder::server`](crate::ApiClientBuilder::server).
    ///
    /// What is read is kept as long as the program, and the same text read again is the same server.
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
    /// let body = String::from_utf8(limited.to_json(None, Endpoint::OpenAi, Some(server))?)?;
    /// assert!(body.contains(r#""max_new_tokens":5"#) && body.contains(r#""with_ids":true"#));
    ///
    /// let sampled = CompletionRequest::text("Hi").sampling(SamplingParams::default().min_p(0.1));
    /// let error = sampled.to_json(None, Endpoint::OpenAi, Some(server)).unwrap_err();
    /// assert!(error.to_string().contains("it takes the field and samples without it"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with line and column or the key, for what is no such record; for
    /// more than [`MAX_SERVER_RECORD_BYTES`] bytes, and for more than [`MAX_SERVER_RECORDS`] different ones.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        READ.get(text, record::read, keep).map(|record| Self::Other(Quirks(record)))
    }

    /// The known server whose words it has; where its record names none, it is itself, and has those of plain OpenAI.
    pub(crate) fn words(self) -> Self {
        match self {
            Self::Other(quirks) => quirks.0.like.map_or(self, |like| like.0),
            known => known,
        }
    }

    pub(crate) fn quirks(self) -> Option<Quirks> {
        if let Self::Other(quirks) = self { Some(quirks) } else { None }
    }

    /// The server whose list of models has this `owned_by`, by its record.
    pub(crate) fn told_by_owner(owner: &str) -> Option<Self> {
        let quirks = BUILT_IN.iter().filter_map(|(_, read)| read.as_ref().ok());
        told_by_owner(quirks.copied(), owner).map(Self::Other)
    }
}

fn told_by_owner(mut among: impl Iterator<Item = Quirks>, owner: &str) -> Option<Quirks> {
    among.find(|quirks| quirks.0.owned_by() == Some(owner))
}

fn known(name: &str) -> Option<ServerKind> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, server)| *server)
}

/// As long as the program: there are [`MAX_SERVER_RECORDS`] at most, and those of the crate.
fn keep(record: Record) -> &'static Record {
    Box::leak(Box::new(record))
}

impl Quirks {
    /// The name in the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        &self.0.name.0
    }

    /// The name for people: its makers' spelling, if the record has it.
    pub(crate) fn title(self) -> &'static str {
        self.0.title.as_deref().unwrap_or(self.name())
    }

    pub(crate) fn gives_ids(self, like: impl FnOnce(ServerKind) -> bool) -> bool {
        self.0.gives_ids.unwrap_or_else(|| self.0.like.is_some_and(|known| like(known.0)))
    }

    /// What it calls this field of ours; `None`: it is left out.
    pub(crate) fn field(self, key: &'static str) -> Option<&'static str> {
        let renames = &self.0.renames;
        match renames.get(key) {
            Some(renamed) => renamed.as_deref(),
            // Another field of ours goes by this name there: that one is meant.
            None if renames.values().flatten().any(|taken| taken == key) => None,
            None => Some(key),
        }
    }

    /// What every request to it has too.
    pub(crate) fn sets(self) -> &'static Map<String, Value> {
        &self.0.sets
    }

    /// What it would ignore or get wrong, and why that is known.
    pub(crate) fn refuses(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.0.refuses.iter().map(|(field, reason)| (field.as_str(), reason.as_str()))
    }
}

impl PartialEq for Quirks {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
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
    use crate::protocol::chunk::endpoint::Endpoint;

    #[test]
    fn a_list_of_models_tells_the_server_whose_record_names_their_owner() {
        let read = |text: &str| ServerKind::from_json(text).unwrap().quirks().unwrap();
        let silent = read(r#"{"name": "silent", "about": ""}"#);
        let told = read(r#"{"name": "told", "about": "", "told_by": {"owned_by": "me"}}"#);
        let among = || [silent, told].into_iter();
        assert_eq!(told_by_owner(among(), "me"), Some(told));
        assert_eq!(told_by_owner(among(), "you"), None);
        assert_eq!(told_by_owner(among(), "told"), None);
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
}
