//! The output of a batch: result lines in the order of the input, none lost by a crash, and none done twice.
//!
//! The first result that is missing is the one whose turn it is. It is written to the output as soon as it comes, and those behind it
//! that have come already. Those stand meanwhile in memory and, where the output is a file, in a second one beside it,
//! `OUTPUT.waiting`: so whatever has been answered and paid for is on the disk, wherever the program is
//! killed. The same command goes on from both files. When all is done there is only the output.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Failure;

/// The file of waiting results is written anew when it has this many bytes of results that wait no more, and more
/// than of those that do.
const STALE_BYTES_MAX: u64 = 1 << 20;

/// What every result line begins with.
const BEGINNING: &[u8] = br#"{"id":"#;

/// Where results go, each in its turn.
pub(crate) struct Results {
    out: Out,
    /// The place whose turn it is.
    turn: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
    waiting_bytes: usize,
}

enum Out {
    Stdout(io::Stdout),
    File { path: PathBuf, file: File, waiting: Journal },
}

/// The results that have no turn yet, on the disk.
struct Journal {
    path: PathBuf,
    file: Option<File>,
    is_there: bool,
    bytes: u64,
}

/// A line of it.
#[derive(Serialize, Deserialize)]
struct Waiting<'a> {
    at: u64,
    #[serde(borrow)]
    result: &'a RawValue,
}

/// The results that there were before: asked, place by place, whether there is one.
pub(crate) struct Before {
    lines: Option<BufReader<File>>,
    /// Results in the output.
    written: u64,
    /// The ids of those that wait for their turn.
    waiting: BTreeMap<u64, Value>,
    path: PathBuf,
}

impl Results {
    pub(crate) fn to_stdout() -> Self {
        Self::new(Out::Stdout(io::stdout()), 0)
    }

    fn new(out: Out, turn: u64) -> Self {
        Self { out, turn, waiting: BTreeMap::new(), waiting_bytes: 0 }
    }

    /// To a file, behind what an earlier run has left in it. A line that it could not finish is taken off.
    pub(crate) fn to_file(path: &Path) -> Result<(Self, Before), Failure> {
        let failed = |error| cannot("write", path, &error);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file =
            open.map_err(|error| Failure::Usage(format!("--output: {error} ({})", shown(path))))?;
        let (written, length) = whole_lines(path, &file)?;
        file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length))).map_err(failed)?;

        let mut waiting = Journal { path: beside(path, ".waiting"), file: None, is_there: false, bytes: 0 };
        let kept = waiting.load(written)?;
        let mut results = Self::new(Out::File { path: path.to_owned(), file, waiting }, written);
        let mut ids = BTreeMap::new();
        for (at, line) in kept {
            ids.insert(at, id_of(&line).unwrap_or_default());
            results.waiting_bytes += line.len();
            results.waiting.insert(at, line);
        }
        // The killed one may have had the result whose turn it is, and not come to write it.
        results.write_those_whose_turn_it_is().map_err(failed)?;
        results.tidy().map_err(failed)?;
        let lines = if written > 0 { Some(BufReader::new(File::open(path).map_err(failed)?)) } else { None };
        Ok((results, Before { lines, written, waiting: ids, path: path.to_owned() }))
    }

    /// The place whose turn it is.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// What waits for its turn, in bytes.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// How many wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a result line, which ends with its line feed. When it returns, the line has been given to the system, if the
    /// output is a file.
    pub(crate) fn put(&mut self, at: u64, line: Vec<u8>) -> Result<(), Failure> {
        self.place(at, line).map_err(|error| match &self.out {
            Out::Stdout(_) => Failure::Output(error),
            Out::File { path, .. } => cannot("write", path, &error),
        })
    }

    fn place(&mut self, at: u64, line: Vec<u8>) -> io::Result<()> {
        if at == self.turn {
            self.write(&line)?;
            self.write_those_whose_turn_it_is()?;
        } else {
            if let Out::File { waiting, .. } = &mut self.out {
                waiting.append(at, &line)?;
            }
            self.waiting_bytes += line.len();
            self.waiting.insert(at, line);
        }
        self.tidy()
    }

    /// The end: without a file, those that wait are written with the gaps between them. Says how many wait in a file, and
    /// which.
    pub(crate) fn finish(mut self) -> io::Result<Option<(usize, PathBuf)>> {
        match &mut self.out {
            Out::Stdout(out) => {
                let mut out = out.lock();
                self.waiting.values().try_for_each(|line| out.write_all(line))?;
                out.flush()?;
                Ok(None)
            }
            Out::File { waiting, .. } => {
                Ok((!self.waiting.is_empty()).then(|| (self.waiting.len(), waiting.path.clone())))
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Out::Stdout(out) => {
                let mut out = out.lock();
                out.write_all(line)?;
                out.flush()?;
            }
            Out::File { file, .. } => file.write_all(line)?,
        }
        self.turn += 1;
        Ok(())
    }

    fn write_those_whose_turn_it_is(&mut self) -> io::Result<()> {
        while let Some(line) = self.waiting.remove(&self.turn) {
            self.waiting_bytes -= line.len();
            self.write(&line)?;
        }
        Ok(())
    }

    /// Keeps the second file from growing: away if nothing waits, written anew if most of it waits no more.
    fn tidy(&mut self) -> io::Result<()> {
        let Out::File { waiting: journal, .. } = &mut self.out else { return Ok(()) };
        if self.waiting.is_empty() {
            return journal.remove();
        }
        let live = self.waiting_bytes as u64;
        if journal.bytes > STALE_BYTES_MAX + 2 * live { journal.rewrite(&self.waiting) } else { Ok(()) }
    }
}

impl Journal {
    fn append(&mut self, at: u64, line: &[u8]) -> io::Result<()> {
        let line = waiting_line(at, line)?;
        self.bytes += line.len() as u64;
        if self.file.is_none() {
            self.file = Some(OpenOptions::new().append(true).create(true).open(&self.path)?);
            self.is_there = true;
        }
        match &mut self.file {
            Some(file) => file.write_all(&line),
            None => Ok(()),
        }
    }

    /// What an earlier run has left, without what stands in the output already.
    fn load(&mut self, written: u64) -> Result<BTreeMap<u64, Vec<u8>>, Failure> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(cannot("read", &self.path, &error)),
        };
        let mut kept = BTreeMap::new();
        // A line that was being written when the program was killed is none.
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let Ok(Waiting { at, result }) = serde_json::from_slice(line) else { continue };
            if at >= written {
                kept.insert(at, format!("{result}\n").into_bytes());
            }
        }
        // What comes next must not go behind half a line.
        self.rewrite(&kept).map_err(|error| cannot("write", &self.path, &error))?;
        Ok(kept)
    }

    /// In one step, as others see it: a name changes.
    fn rewrite(&mut self, waiting: &BTreeMap<u64, Vec<u8>>) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let mut out = BufWriter::new(File::create(&new)?);
        self.bytes = 0;
        for (at, line) in waiting {
            let line = waiting_line(*at, line)?;
            self.bytes += line.len() as u64;
            out.write_all(&line)?;
        }
        out.flush()?;
        fs::rename(&new, &self.path)?;
        (self.file, self.is_there) = (None, true);
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        (self.file, self.bytes) = (None, 0);
        if std::mem::take(&mut self.is_there) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

fn waiting_line(at: u64, line: &[u8]) -> io::Result<Vec<u8>> {
    let result = serde_json::from_slice(line).map_err(io::Error::other)?;
    let mut line = serde_json::to_vec(&Waiting { at, result }).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

impl Before {
    pub(crate) fn nothing() -> Self {
        Self { lines: None, written: 0, waiting: BTreeMap::new(), path: PathBuf::new() }
    }

    /// How many there are.
    pub(crate) fn done(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Whether the prompt at `at`, called `id`, has its result. To be asked for each place in order.
    pub(crate) fn has(&mut self, at: u64, id: &Value) -> Result<bool, Failure> {
        let found = if at < self.written {
            let mut line = Vec::new();
            if let Some(lines) = &mut self.lines {
                lines.read_until(b'\n', &mut line).map_err(|error| cannot("read", &self.path, &error))?;
            }
            id_of(&line)
        } else {
            self.waiting.remove(&at)
        };
        match found {
            None => Ok(false),
            Some(found) if found == *id => Ok(true),
            Some(found) => Err(Failure::Usage(format!(
                "{} is the output of another input: its result {} is of {found}, the input has {id} there",
                shown(&self.path),
                at + 1,
            ))),
        }
    }

    /// All of the input has been asked for: `prompts` in number.
    pub(crate) fn is_all(&self, prompts: u64) -> Result<(), Failure> {
        let more = self.written > prompts || !self.waiting.is_empty();
        if !more {
            return Ok(());
        }
        let results = self.written.max(self.waiting.keys().last().map_or(0, |at| at + 1));
        Err(Failure::Usage(format!(
            "{} is the output of another input: it has {results} results, the input {prompts} prompts",
            shown(&self.path)
        )))
    }
}

/// How many results a file has, and how many bytes they take: what follows is a line that was not finished.
fn whole_lines(path: &Path, file: &File) -> Result<(u64, u64), Failure> {
    let mut lines = BufReader::new(file);
    let (mut count, mut length) = (0, 0);
    loop {
        let mut line = Vec::new();
        let read = lines.read_until(b'\n', &mut line).map_err(|error| cannot("read", path, &error))?;
        let is_result = id_of(&line).is_some();
        let is_cut = !line.ends_with(b"\n") && (is_result || is_begun(&line));
        if read == 0 || is_cut {
            return Ok((count, length));
        }
        if !is_result {
            let line = count + 1;
            return Err(Failure::Usage(format!("line {line} of {} is no result of a batch", shown(path))));
        }
        count += 1;
        length += read as u64;
    }
}

/// Whether a result line may have been cut off here: what begins otherwise is somebody else's.
fn is_begun(line: &[u8]) -> bool {
    let begins = line.iter().zip(BEGINNING).all(|(one, other)| one == other);
    begins && serde_json::from_slice::<&RawValue>(line).is_err()
}

/// The id of a result line; `None` of what is none.
fn id_of(line: &[u8]) -> Option<Value> {
    #[derive(Deserialize)]
    struct Result {
        id: Value,
        // It is there, if only as null: input lines have none.
        #[serde(rename = "error")]
        _error: Value,
    }
    serde_json::from_slice(line).ok().map(|Result { id, .. }| id)
}

/// `path` with something behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn shown(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Machine(format!("cannot {what} {}: {error}", shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64) -> Vec<u8> {
        format!("{{\"id\":{at},\"text\":\"t{at}\",\"error\":null}}\n").into_bytes()
    }

    fn whole(places: u64) -> Vec<u8> {
        (0..places).flat_map(line).collect()
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tokenwire-results-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn out(&self) -> PathBuf {
            self.0.join("out.jsonl")
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_run_killed_after_any_result_and_at_any_byte_goes_on_to_the_same_file() {
        let orders: [[u64; 5]; 4] = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 2, 3, 4, 0]];
        let folder = Folder::new("killed");
        for order in orders {
            for killed in 0..=order.len() {
                for cut in [0, 1, 20] {
                    let (mut results, _) = Results::to_file(&folder.out()).unwrap();
                    order[..killed].iter().for_each(|at| results.put(*at, line(*at)).unwrap());
                    drop(results);
                    // Half a line, in both files.
                    for path in [folder.out(), beside(&folder.out(), ".waiting")] {
                        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                        file.write_all(&line(9)[..cut]).unwrap();
                    }
                    let (mut results, mut before) = Results::to_file(&folder.out()).unwrap();
                    assert_eq!(before.done(), killed as u64, "{order:?}");
                    for at in 0..5 {
                        let has = before.has(at, &at.into()).unwrap();
                        assert_eq!(has, order[..killed].contains(&at), "{order:?} {killed} {at}");
                        if !has {
                            results.put(at, line(at)).unwrap();
                        }
                    }
                    before.is_all(5).unwrap();
                    assert_eq!(results.finish().unwrap(), None);
                    assert_eq!(fs::read(folder.out()).unwrap(), whole(5), "{order:?} {killed}");
                    assert_eq!(folder.files(), 1, "the second file is gone");
                    fs::remove_file(folder.out()).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_second_file_does_not_grow_with_the_run() {
        let folder = Folder::new("grow");
        let (mut results, _) = Results::to_file(&folder.out()).unwrap();
        let text = "x".repeat(100_000);
        let line = |at: u64| format!("{{\"id\":{at},\"text\":\"{text}\",\"error\":null}}\n").into_bytes();
        let mut most = 0;
        results.put(1, line(1)).unwrap();
        // Always one waits.
        for at in 0..100 {
            results.put(2 * at + 3, line(2 * at + 3)).unwrap();
            results.put(2 * at, line(2 * at)).unwrap();
            let file = fs::metadata(beside(&folder.out(), ".waiting")).unwrap();
            most = most.max(file.len());
            assert_eq!(results.waiting(), 1);
        }
        assert!(most < 2 * STALE_BYTES_MAX, "{most}");
        assert_eq!(results.finish().unwrap().map(|(count, _)| count), Some(1));
    }

    #[test]
    fn a_file_that_is_no_output_of_this_input_is_refused_and_left_alone() {
        let folder = Folder::new("foreign");
        for content in
            ["{\"prompt\":\"a\"}\n", "{\"id\":1,\"prompt\":\"a\"}", "text\nmore", "text", "{\"id\":1}\n"]
        {
            fs::write(folder.out(), content).unwrap();
            assert!(matches!(Results::to_file(&folder.out()), Err(Failure::Usage(_))), "{content}");
            assert_eq!(fs::read_to_string(folder.out()).unwrap(), content);
        }
        fs::write(folder.out(), whole(3)).unwrap();
        let before = || Results::to_file(&folder.out()).unwrap().1;
        assert!(matches!(before().has(0, &7.into()), Err(Failure::Usage(_))));
        assert!(before().is_all(2).is_err() && before().is_all(3).is_ok() && before().is_all(4).is_ok());
    }
}
