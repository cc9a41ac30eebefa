//! The results that earlier runs of a batch have written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::exit::Failure;

/// The beginning of every result line.
const BEGINNING: &[u8] = br#"{"id":"#;

/// The results of earlier runs. [`take`](Self::take) looks them up, position by position.
pub(crate) struct Before {
    output: Lines,
    /// The number of results in the output.
    written: u64,
    /// The ids of the results that wait for an earlier result, by position.
    waiting: BTreeMap<u64, Value>,
    /// The output from before `--redo-failed` started a new file, and the number of its results
    /// that are kept.
    earlier: Lines,
    kept: u64,
}

/// A file of results.
struct Lines {
    path: PathBuf,
    lines: Box<dyn BufRead + Send>,
    count: u64,
}

/// The state of a prompt's result.
pub(crate) enum Taken {
    /// The output or the file of waiting results already contains the result.
    Done,
    /// The result is in the earlier output and must be written to the new one.
    Kept(Vec<u8>),
    Missing,
}

/// The contents of an output file.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) lines: u64,
    /// The lines with an error.
    pub(crate) failed: u64,
    /// The lines with a retryable error.
    pub(crate) retryable: u64,
    /// The size of the complete lines. An unfinished line may follow them.
    pub(crate) bytes: u64,
}

/// The parts of a result line that a later run needs.
#[derive(Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: Value,
    /// The field is required, even if it is null, because only result lines have it, not input
    /// lines.
    error: Value,
}

impl Before {
    pub(crate) fn nothing() -> Self {
        let (output, earlier) = (Lines::none(), Lines::none());
        Self { output, written: 0, waiting: BTreeMap::new(), earlier, kept: 0 }
    }

    pub(crate) fn new(
        output: &Path,
        written: u64,
        waiting: BTreeMap<u64, Value>,
        earlier: &Path,
    ) -> Result<Self, Failure> {
        let (found, earlier) = match earlier.exists() {
            true => (Found::at(earlier)?, Lines::open(earlier)?),
            false => (Found::default(), Lines::none()),
        };
        let kept = found.lines - found.retryable;
        Ok(Self { output: Lines::open(output)?, written, waiting, earlier, kept })
    }

    /// Returns the number of results.
    pub(crate) fn done(&self) -> u64 {
        self.kept.max(self.written) + self.waiting.len() as u64
    }

    /// Returns the result of the prompt at position `at` with this `id`.
    ///
    /// Call it once for each position, in order.
    pub(crate) fn take(&mut self, at: u64, id: &Value) -> Result<Taken, Failure> {
        let earlier = self.earlier.next()?;
        let (found, taken) = if at < self.written {
            (Kept::of(&self.output.next()?).map(|kept| kept.id), Taken::Done)
        } else if let Some(found) = self.waiting.remove(&at) {
            (Some(found), Taken::Done)
        } else {
            let kept = Kept::of(&earlier).filter(|kept| !kept.is_retryable());
            (kept.map(|kept| kept.id), Taken::Kept(earlier))
        };
        match found {
            None => Ok(Taken::Missing),
            Some(found) if found == *id => Ok(taken),
            Some(found) => Err(Failure::Usage(format!(
                "{} belongs to another input: result {} has the id {found}, but the prompt has the id {id}",
                shown(&self.output.path),
                at + 1,
            ))),
        }
    }

    /// Checks at the end of the input that there are no more results than `prompts`.
    pub(crate) fn is_all(&mut self, prompts: u64) -> Result<(), Failure> {
        let has_more_before = !self.earlier.next()?.is_empty();
        if self.written <= prompts && self.waiting.is_empty() && !has_more_before {
            return Ok(());
        }
        let last = self.waiting.keys().last().map_or(0, |at| at + 1);
        let results = self.written.max(last).max(self.earlier.count);
        Err(Failure::Usage(format!(
            "{} belongs to another input: it has {results} results, but the input has {prompts} prompts",
            shown(&self.output.path)
        )))
    }
}

impl Lines {
    fn none() -> Self {
        Self { path: PathBuf::new(), lines: Box::new(io::empty()), count: 0 }
    }

    fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
        Ok(Self { path: path.to_owned(), lines: Box::new(BufReader::new(file)), count: 0 })
    }

    /// Reads the next line; returns an empty one at the end.
    fn next(&mut self) -> Result<Vec<u8>, Failure> {
        let mut line = Vec::new();
        let read =
            self.lines.read_until(b'\n', &mut line).map_err(|error| cannot("read", &self.path, &error))?;
        self.count += u64::from(read > 0);
        Ok(line)
    }
}

impl Found {
    /// Reads the file at `path`.
    pub(crate) fn at(path: &Path) -> Result<Self, Failure> {
        let (mut lines, mut found) = (Lines::open(path)?, Self::default());
        loop {
            let line = lines.next()?;
            let kept = Kept::of(&line);
            let is_cut = !line.ends_with(b"\n") && (kept.is_some() || is_begun(&line));
            if line.is_empty() || is_cut {
                return Ok(found);
            }
            let Some(kept) = kept else {
                let (line, path) = (lines.count, shown(path));
                return Err(Failure::Usage(format!(
                    "line {line} of {path} is not a result of a batch: choose another --output"
                )));
            };
            found.lines += 1;
            found.failed += u64::from(!kept.error.is_null());
            found.retryable += u64::from(kept.is_retryable());
            found.bytes += line.len() as u64;
        }
    }
}

impl Kept {
    /// Parses a line; returns `None` if it is not a result line.
    pub(crate) fn of(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.error["retryable"] == true
    }
}

/// Returns whether `line` can be the beginning of a result line that a killed run left behind.
///
/// A line with another beginning belongs to another file format.
fn is_begun(line: &[u8]) -> bool {
    let begins = line.iter().zip(BEGINNING).all(|(one, other)| one == other);
    begins && serde_json::from_slice::<&RawValue>(line).is_err()
}

/// Returns `path` with `suffix` appended to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

pub(crate) fn shown(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

pub(crate) fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Machine(format!("cannot {what} {}: {error}", shown(path)))
}
