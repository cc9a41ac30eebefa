//! The output of a batch: result lines in the order of the input. A crash loses no result, and no
//! prompt is answered twice.
//!
//! It is always the turn of the first missing result. When this result arrives, it is written to
//! the output, followed by the results after it that have already arrived. Until then, those later
//! results wait in memory. If the output is a file, they are also in a second file,
//! `OUTPUT.waiting`. Every answer that you paid for is therefore on the disk, even if the program
//! is killed. The same command continues from both files. At the end, only the output remains.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::before::{Before, Found, Kept, beside, cannot, shown};
use crate::exit::Failure;

/// The file of waiting results may hold this number of bytes of old results, plus the size of the
/// waiting results. A larger file is rewritten.
const MAX_STALE_BYTES: u64 = 1 << 20;

/// The output. It writes each result in its turn.
pub(crate) struct Results {
    out: Out,
    /// The position of the first missing result.
    turn: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
    waiting_bytes: usize,
}

enum Out {
    Stdout(io::Stdout),
    File { path: PathBuf, file: File, journal: Journal },
}

/// The file of waiting results.
struct Journal {
    path: PathBuf,
    /// The open file, if results of this run were added to it.
    file: Option<File>,
    bytes: u64,
}

/// A line of the file of waiting results.
#[derive(Serialize, Deserialize)]
struct Waiting<'a> {
    at: u64,
    #[serde(borrow)]
    result: &'a RawValue,
}

impl Results {
    pub(crate) fn to_stdout() -> Self {
        Self { out: Out::Stdout(io::stdout()), turn: 0, waiting: BTreeMap::new(), waiting_bytes: 0 }
    }

    /// Opens a file and appends to the results of earlier runs.
    ///
    /// An unfinished last line is removed. With `redo`, retryable errors do not count as results:
    /// a new file is started, and it gets the other results from the earlier file.
    pub(crate) fn to_file(path: &Path, redo: bool) -> Result<(Self, Before), Failure> {
        let failed = |error| cannot("write", path, &error);
        let (mut file, mut found) = open(path)?;
        let earlier = beside(path, ".before");
        if redo && found.retryable > 0 && !earlier.exists() {
            fs::rename(path, &earlier).map_err(failed)?;
            (file, found) = open(path)?;
        }
        let written = found.lines;
        let mut journal = Journal { path: beside(path, ".waiting"), file: None, bytes: 0 };
        let mut waiting = journal.load(written)?;
        if redo {
            waiting.retain(|_, line| !Kept::of(line).is_some_and(|kept| kept.is_retryable()));
        }
        let id = |line: &Vec<u8>| Kept::of(line).map(|kept| kept.id).unwrap_or_default();
        let ids = waiting.iter().map(|(at, line)| (*at, id(line))).collect();
        let waiting_bytes = waiting.values().map(Vec::len).sum();
        let out = Out::File { path: path.to_owned(), file, journal };
        let mut results = Self { out, turn: written, waiting, waiting_bytes };
        // A killed run may have received the result whose turn it is, without writing it to the
        // output.
        results.write_those_whose_turn_it_is().map_err(failed)?;
        results.tidy().map_err(failed)?;
        Ok((results, Before::new(path, written, ids, &earlier)?))
    }

    /// Returns the position of the first missing result.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// Returns the size of the waiting results, in bytes.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns the number of waiting results.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a result line, which must end with a line feed.
    ///
    /// When this returns, the line has been passed to the operating system if the output is a file.
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
            if let Out::File { journal, .. } = &mut self.out {
                journal.append(at, &line)?;
            }
            self.waiting_bytes += line.len();
            self.waiting.insert(at, line);
        }
        self.tidy()
    }

    /// Ends the output. `is_all` means that every prompt has its result.
    ///
    /// On standard output, this writes the waiting results and skips the missing ones. For a file,
    /// this returns the number of waiting results and the path of the file that holds them.
    pub(crate) fn finish(&mut self, is_all: bool) -> io::Result<Option<(usize, PathBuf)>> {
        match &mut self.out {
            Out::Stdout(out) => {
                self.waiting.values().try_for_each(|line| out.write_all(line))?;
                out.flush()?;
                Ok(None)
            }
            Out::File { path, journal, .. } => {
                let earlier = beside(path, ".before");
                if is_all && self.waiting.is_empty() && earlier.exists() {
                    fs::remove_file(earlier)?;
                }
                Ok((!self.waiting.is_empty()).then(|| (self.waiting.len(), journal.path.clone())))
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Out::Stdout(out) => out.write_all(line).and_then(|()| out.flush())?,
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

    /// Keeps the file of waiting results small: removes it if no result waits, and rewrites it if
    /// most of its results no longer wait.
    fn tidy(&mut self) -> io::Result<()> {
        let Out::File { journal, .. } = &mut self.out else { return Ok(()) };
        if self.waiting.is_empty() {
            return journal.remove();
        }
        let is_stale = journal.bytes > MAX_STALE_BYTES + 2 * self.waiting_bytes as u64;
        if is_stale { journal.rewrite(&self.waiting) } else { Ok(()) }
    }
}

impl Journal {
    fn append(&mut self, at: u64, line: &[u8]) -> io::Result<()> {
        let line = waiting_line(at, line)?;
        self.bytes += line.len() as u64;
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).create(true).open(&self.path)?,
        };
        self.file.insert(file).write_all(&line)
    }

    /// Loads the waiting results of an earlier run. Skips results that the output already has.
    fn load(&mut self, written: u64) -> Result<BTreeMap<u64, Vec<u8>>, Failure> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(cannot("read", &self.path, &error)),
        };
        let mut kept = BTreeMap::new();
        // A killed run may leave half a line. It is not a result.
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let Ok(Waiting { at, result }) = serde_json::from_slice(line) else { continue };
            if at >= written {
                kept.insert(at, format!("{result}\n").into_bytes());
            }
        }
        // This removes half a line, so that the next result starts a new line.
        self.rewrite(&kept).map_err(|error| cannot("write", &self.path, &error))?;
        Ok(kept)
    }

    /// Replaces the file in one step, by renaming a new file.
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
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        self.bytes = 0;
        self.file.take().map_or(Ok(()), |_| fs::remove_file(&self.path))
    }
}

/// Opens the output at its end, and returns its contents.
fn open(path: &Path) -> Result<(File, Found), Failure> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open
        .map_err(|error| Failure::Usage(format!("invalid --output: cannot open {}: {error}", shown(path))))?;
    // A batch cannot continue in a device or a pipe, and a read from a device or a pipe may never
    // end.
    if !path.is_file() {
        return Err(Failure::Usage(format!("invalid --output: {} is not a regular file", shown(path))));
    }
    let found = Found::at(path)?;
    let cut = file.set_len(found.bytes).and_then(|()| file.seek(SeekFrom::Start(found.bytes)));
    cut.map_err(|error| cannot("write", path, &error))?;
    Ok((file, found))
}

fn waiting_line(at: u64, line: &[u8]) -> io::Result<Vec<u8>> {
    let result = serde_json::from_slice(line).map_err(io::Error::other)?;
    let mut line = serde_json::to_vec(&Waiting { at, result }).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::super::before::Taken;
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
    fn a_run_killed_after_any_result_and_at_any_byte_continues_to_the_same_file() {
        let orders: [[u64; 5]; 4] = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 2, 3, 4, 0]];
        let folder = Folder::new("killed");
        for order in orders {
            for killed in 0..=order.len() {
                for cut in [0, 1, 20] {
                    let (mut results, _) = Results::to_file(&folder.out(), false).unwrap();
                    order[..killed].iter().for_each(|at| results.put(*at, line(*at)).unwrap());
                    drop(results);
                    // Adds half a line to both files.
                    for path in [folder.out(), beside(&folder.out(), ".waiting")] {
                        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                        file.write_all(&line(9)[..cut]).unwrap();
                    }
                    let (mut results, mut before) = Results::to_file(&folder.out(), false).unwrap();
                    assert_eq!(before.done(), killed as u64, "{order:?}");
                    for at in 0..5 {
                        let has = matches!(before.take(at, &at.into()).unwrap(), Taken::Done);
                        assert_eq!(has, order[..killed].contains(&at), "{order:?} {killed} {at}");
                        if !has {
                            results.put(at, line(at)).unwrap();
                        }
                    }
                    before.is_all(5).unwrap();
                    assert_eq!(results.finish(true).unwrap(), None);
                    assert_eq!(fs::read(folder.out()).unwrap(), whole(5), "{order:?} {killed}");
                    assert_eq!(folder.files(), 1, "the file of waiting results is gone");
                    fs::remove_file(folder.out()).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_file_of_waiting_results_does_not_grow_with_the_run() {
        let folder = Folder::new("grow");
        let (mut results, _) = Results::to_file(&folder.out(), false).unwrap();
        let text = "x".repeat(100_000);
        let line = |at: u64| format!("{{\"id\":{at},\"text\":\"{text}\",\"error\":null}}\n").into_bytes();
        let mut most = 0;
        results.put(1, line(1)).unwrap();
        // One result always waits.
        for at in 0..100 {
            results.put(2 * at + 3, line(2 * at + 3)).unwrap();
            results.put(2 * at, line(2 * at)).unwrap();
            let file = fs::metadata(beside(&folder.out(), ".waiting")).unwrap();
            most = most.max(file.len());
            assert_eq!(results.waiting(), 1);
        }
        assert!(most < 2 * MAX_STALE_BYTES, "{most}");
        assert_eq!(results.finish(true).unwrap().map(|(count, _)| count), Some(1));
    }

    #[test]
    fn a_file_that_is_not_the_output_of_this_input_is_refused_and_left_alone() {
        let folder = Folder::new("foreign");
        for content in
            ["{\"prompt\":\"a\"}\n", "{\"id\":1,\"prompt\":\"a\"}", "text\nmore", "text", "{\"id\":1}\n"]
        {
            fs::write(folder.out(), content).unwrap();
            assert!(matches!(Results::to_file(&folder.out(), false), Err(Failure::Usage(_))), "{content}");
            assert_eq!(fs::read_to_string(folder.out()).unwrap(), content);
        }
        fs::write(folder.out(), whole(3)).unwrap();
        let before = || Results::to_file(&folder.out(), false).unwrap().1;
        assert!(matches!(before().take(0, &7.into()), Err(Failure::Usage(_))));
        assert!(before().is_all(2).is_err() && before().is_all(3).is_ok() && before().is_all(4).is_ok());
    }

    #[test]
    fn redo_repeats_retryable_errors_wherever_the_run_is_killed() {
        let failed = |at: u64, retryable: bool| {
            format!("{{\"id\":{at},\"text\":\"\",\"error\":{{\"kind\":\"x\",\"retryable\":{retryable}}}}}\n")
                .into_bytes()
        };
        let folder = Folder::new("redo");
        // The errors 1 and 3 are retryable, 2 is not; 4 has no result.
        let before = [line(0), failed(1, true), failed(2, false), failed(3, true)].concat();
        let after = [line(0), line(1), failed(2, false), line(3), line(4)].concat();
        for killed in 0..=5 {
            fs::write(folder.out(), &before).unwrap();
            let mut asked = 0;
            for (redo, stop) in [(true, killed), (killed % 2 == 0, 5)] {
                let (mut results, mut before) = Results::to_file(&folder.out(), redo).unwrap();
                for at in 0..stop {
                    match before.take(at, &at.into()).unwrap() {
                        Taken::Done => {}
                        Taken::Kept(line) => results.put(at, line).unwrap(),
                        Taken::Missing => {
                            asked += 1;
                            results.put(at, line(at)).unwrap();
                        }
                    }
                }
                if stop == 5 {
                    before.is_all(5).unwrap();
                }
                results.finish(stop == 5).unwrap();
            }
            assert_eq!(fs::read(folder.out()).unwrap(), after, "killed after {killed}");
            assert_eq!((asked, folder.files()), (3, 1), "killed after {killed}");
        }
    }
}
