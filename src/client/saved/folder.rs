//! Saves failed requests in a folder, one private file per request, within limits.
//!
//! A file is written under a temporary name and then renamed, so readers see only whole files. The
//! temporary file is created with `O_EXCL`, which does not follow symbolic links. No two processes
//! can therefore own the same temporary name. The temporary name contains the final name, and only
//! the owner of the temporary name uses the final name. If the final name is free while we own the
//! temporary name, the final name therefore stays free.
//!
//! A name consists of the time, the process id and a counter. It never contains data of a server.
//! Files are not synced to the disk. A file survives the end of the program, but a power cut may
//! destroy it.
//!
//! std cannot open a folder and then access files relative to this folder. The check for a symbolic
//! link and the write are therefore two steps. An attacker who replaces the folder between these
//! steps needs write access to its parent folder. Such an attacker could also have replaced the
//! folder earlier.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::form::MAX_SAVED_REQUEST_BYTES;
use super::request::SavedRequest;
use crate::config::Limits;

const PREFIX: &str = "tokenwire-failed-";
/// The age at which a temporary file is removed. The program that wrote it was probably killed.
const MAX_TEMPORARY_AGE: Duration = Duration::from_secs(600);
/// Limits how many names are tried. Only a process with the same id can have taken a name.
///
/// Two processes have the same id only if they run in different containers.
const MAX_NAMES_TRIED: usize = 16;

/// The folder for failed requests, and its limits.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    max_files: usize,
    max_bytes: u64,
    warned: AtomicBool,
}

impl Folder {
    /// Creates the value. tokenwire does not access the disk before the first failure.
    pub(crate) fn new(path: &Path, limits: &Limits) -> Self {
        Self {
            // `components` removes a slash at the end. With this slash, a symbolic link would look
            // like a folder.
            path: path.components().collect(),
            max_files: limits.max_saved_files,
            max_bytes: (limits.max_saved_bytes as u64).min(MAX_SAVED_REQUEST_BYTES),
            warned: AtomicBool::new(false),
        }
    }

    /// Saves the request and returns the path of the file.
    ///
    /// Returns `None` and logs the reason if the request cannot be saved.
    pub(crate) fn save(&self, request: &SavedRequest) -> Option<PathBuf> {
        match self.try_save(request) {
            Ok(path) => {
                log::debug!("saved the failed request as {path:?}");
                Some(path)
            }
            Err(error) => {
                let first = !self.warned.swap(true, Ordering::Relaxed);
                let level = if first { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "a failed request could not be saved in {:?}: {error}", self.path);
                None
            }
        }
    }

    fn try_save(&self, request: &SavedRequest) -> io::Result<PathBuf> {
        // Only one thread of this process saves at a time, so that the limits hold exactly.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

        let json = request.to_json();
        let bytes = json.len() as u64;
        if self.max_files == 0 || bytes > self.max_bytes {
            return Err(io::Error::other(
                "max_saved_files is 0, or the request is larger than max_saved_bytes",
            ));
        }
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        self.open()?;
        self.make_room(request.at_ms, self.max_files - 1, self.max_bytes - bytes, None)?;
        let names = (0..MAX_NAMES_TRIED).map(|_| Name::next(request.at_ms));
        let path = self.write(names, json.as_bytes())?;
        // Other processes may have saved files at the same time, so check the limits again.
        let _ = self.make_room(request.at_ms, self.max_files, self.max_bytes, Some(&path));
        Ok(path)
    }

    /// Creates the folder if it is missing. Returns an error if the path is not a folder.
    fn open(&self) -> io::Result<()> {
        let mut found = fs::symlink_metadata(&self.path);
        if found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            let mut builder = DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(&self.path)?;
            found = fs::symlink_metadata(&self.path);
        }
        if found?.is_dir() {
            Ok(())
        } else {
            Err(io::Error::other("the path is not a folder, or is a symbolic link"))
        }
    }

    /// Removes our oldest files until at most `files` files with `bytes` bytes are left.
    ///
    /// The function never removes `kept`. It also keeps every file whose name was not made by
    /// tokenwire.
    fn make_room(&self, now_ms: u64, files: usize, bytes: u64, kept: Option<&Path>) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(Name::parse) else { continue };
            // `DirEntry::metadata` does not follow links. Only a plain file can be ours.
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            if !name.temporary {
                found.push((name, metadata.len(), entry.path()));
            } else if now_ms.saturating_sub(name.at_ms) > MAX_TEMPORARY_AGE.as_millis() as u64 {
                remove(&entry.path())?;
            }
        }
        found.sort_unstable();
        let mut files_left = found.len();
        // Other programs may have written sparse files. The sum of their sizes may need more than
        // 64 bits.
        let mut bytes_left: u128 = found.iter().map(|(_, bytes, _)| u128::from(*bytes)).sum();
        for (_, size, path) in &found {
            if files_left <= files && bytes_left <= u128::from(bytes) {
                break;
            }
            if Some(path.as_path()) != kept {
                remove(path)?;
                files_left -= 1;
                bytes_left -= u128::from(*size);
            }
        }
        Ok(())
    }

    /// Writes the file under the first of `names` that is free.
    fn write(&self, names: impl Iterator<Item = Name>, json: &[u8]) -> io::Result<PathBuf> {
        for name in names {
            let (temporary, path) = (self.path.join(name.temporary()), self.path.join(name.to_string()));
            let mut file = match create(&temporary) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                result => result?,
            };
            let taken = fs::symlink_metadata(&path).is_ok();
            let written = if taken {
                Ok(())
            } else {
                file.write_all(json).and_then(|()| fs::rename(&temporary, &path))
            };
            if taken || written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            written?;
            if !taken {
                return Ok(path);
            }
        }
        Err(io::Error::new(ErrorKind::AlreadyExists, "all file names that were tried are taken"))
    }
}

/// Creates a new file that only its owner may read.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Removes a file. It is not an error if another process has already removed it.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

// ---- names ----

/// A file name: `tokenwire-failed-<milliseconds>-<process>-<counter>.json`.
///
/// The extension is `.tmp` while the file is written. Names are sorted by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    at_ms: u64,
    counter: u64,
    process: u32,
    temporary: bool,
}

impl Name {
    fn next(at_ms: u64) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self { at_ms, counter, process: process::id(), temporary: false }
    }

    fn temporary(self) -> String {
        Self { temporary: true, ..self }.to_string()
    }

    /// Parses a name. Returns `None` for a name that tokenwire does not make.
    ///
    /// A file with such a name is not ours.
    fn parse(text: &str) -> Option<Self> {
        let (stem, extension) = text.strip_prefix(PREFIX)?.rsplit_once('.')?;
        let mut parts = stem.split('-');
        let name = Self {
            at_ms: parts.next()?.parse().ok()?,
            process: parts.next()?.parse().ok()?,
            counter: parts.next()?.parse().ok()?,
            temporary: extension == "tmp",
        };
        (name.to_string() == text).then_some(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at_ms, counter, process, temporary } = self;
        let extension = if *temporary { "tmp" } else { "json" };
        write!(f, "{PREFIX}{at_ms:013}-{process}-{counter}.{extension}")
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::client::saved::tests::saved;
    use crate::error::Error;

    /// A temporary folder for one test, removed at the end of the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tokenwire-folder-{}-{name}", process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn folder(&self, max_files: usize, max_bytes: usize) -> Folder {
            let limits =
                Limits { max_saved_files: max_files, max_saved_bytes: max_bytes, ..Limits::default() };
            Folder::new(&self.0.join("failed"), &limits)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn request(at_ms: u64, body_bytes: usize) -> SavedRequest {
        let body = format!("{{\"prompt\":\"{}\"}}", "x".repeat(body_bytes));
        SavedRequest { at_ms, ..saved(&body, &Error::protocol("bad")) }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(&folder.path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn folder_and_file_are_private_and_an_existing_folder_keeps_its_mode() {
        let scratch = Scratch::new("modes");
        let folder = scratch.folder(9, 1 << 20);
        let request = request(1, 10);
        let path = folder.save(&request).unwrap();
        assert_eq!((mode(&folder.path), mode(&path)), (0o700, 0o600));
        assert_eq!(SavedRequest::load(&path).unwrap(), request);
        assert_eq!(names(&folder).len(), 1, "no temporary file is left");

        fs::set_permissions(&folder.path, fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.save(&request).unwrap();
        assert_eq!((mode(&folder.path), mode(&path)), (0o755, 0o600));
        // Missing parent folders are also created, and they are private too.
        let below = Folder::new(&folder.path.join("a/b/"), &Limits::default());
        below.save(&request).unwrap();
        assert_eq!((mode(&folder.path.join("a")), mode(&folder.path.join("a/b"))), (0o700, 0o700));
    }

    #[test]
    fn a_path_that_is_not_a_folder_is_refused_and_links_are_not_followed() {
        let scratch = Scratch::new("links");
        let folder = scratch.folder(9, 1 << 20);
        let elsewhere = scratch.0.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &folder.path).unwrap();
        for given in ["failed", "failed/", "failed/."] {
            let folder = Folder::new(&scratch.0.join(given), &Limits::default());
            assert_eq!(folder.save(&request(1, 10)), None, "{given}");
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        fs::remove_file(&folder.path).unwrap();
        symlink(scratch.0.join("nowhere"), &folder.path).unwrap();
        assert_eq!(folder.save(&request(1, 10)), None, "a dangling link");
        assert!(!scratch.0.join("nowhere").exists());
        fs::remove_file(&folder.path).unwrap();
        fs::write(&folder.path, "a file").unwrap();
        assert_eq!(folder.save(&request(1, 10)), None);
        assert_eq!(Folder::new(Path::new(""), &Limits::default()).save(&request(1, 10)), None);
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone_even_if_it_is_a_link() {
        let scratch = Scratch::new("names");
        let folder = scratch.folder(99, 1 << 20);
        let victim = scratch.0.join("victim");
        fs::write(&victim, "untouched").unwrap();
        folder.open().unwrap();
        let name = |counter, temporary| Name { at_ms: 5, counter, process: 1, temporary };
        let (first, second, third) = (name(1, false), name(2, false), name(3, false));
        for taken in [name(1, true), second] {
            symlink(&victim, folder.path.join(taken.to_string())).unwrap();
        }
        let path = folder.write([first, second, third].into_iter(), b"{}").unwrap();
        assert_eq!(path, folder.path.join(third.to_string()));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(names(&folder).len(), 3, "no link was removed, no temporary file is left");
        assert!(folder.write([first, second, third].into_iter(), b"{}").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
    }

    #[test]
    fn our_oldest_files_are_removed_to_make_room() {
        let one = request(1_000_000_000_000, 1000).to_json().len();
        // (max_files, max_bytes, files that are left of ten)
        for (max_files, max_bytes, left) in
            [(3, 1 << 20, 3), (1, 1 << 20, 1), (99, 4 * one, 4), (99, 4 * one - 1, 3), (99, one, 1)]
        {
            let scratch = Scratch::new("bounds");
            let folder = scratch.folder(max_files, max_bytes);
            folder.open().unwrap();
            let foreign =
                ["a.json", "tokenwire-failed-1-2-3.json", "tokenwire-failed-0000000000001-1-x.json"];
            for name in foreign {
                fs::write(folder.path.join(name), "x").unwrap();
            }
            fs::create_dir(folder.path.join("tokenwire-failed-0000000000001-1-1.json")).unwrap();
            let saved: Vec<PathBuf> = (0..10)
                .map(|n| {
                    let path = folder.save(&request(1_000_000_000_000 + n, 1000)).unwrap();
                    assert!(path.exists(), "the file exists when its path is returned");
                    path
                })
                .collect();
            let there: Vec<bool> = saved.iter().map(|path| path.exists()).collect();
            let expected: Vec<bool> = (0..10).map(|n| n >= 10 - left).collect();
            assert_eq!(there, expected, "{max_files} files, {max_bytes} bytes");
            assert_eq!(names(&folder).len(), left + 4, "the files of other programs stay");
        }
    }

    #[test]
    fn the_newest_file_stays_even_if_the_clock_went_back() {
        let scratch = Scratch::new("clock");
        let folder = scratch.folder(2, 1 << 20);
        for at_ms in [9_000, 9_001, 9_002] {
            folder.save(&request(at_ms, 10)).unwrap();
        }
        let path = folder.save(&request(1, 10)).unwrap();
        assert!(path.exists());
        // Another process has saved a file in the meantime, so the folder contains one file too
        // many.
        let other = Name { at_ms: 9_003, counter: 0, process: 1, temporary: false };
        fs::write(folder.path.join(other.to_string()), "x").unwrap();
        folder.make_room(1, 2, 1 << 20, Some(&path)).unwrap();
        assert!(path.exists() && names(&folder).len() == 2);
    }

    #[test]
    fn a_request_that_is_too_large_is_not_saved_and_removes_nothing() {
        let scratch = Scratch::new("large");
        let folder = scratch.folder(9, 2000);
        let small = folder.save(&request(1, 10)).unwrap();
        assert_eq!(folder.save(&request(2, 2000)), None);
        assert!(small.exists());
        assert_eq!(scratch.folder(0, 2000).save(&request(3, 10)), None);
    }

    #[test]
    fn temporary_files_of_programs_that_were_killed_are_removed() {
        let scratch = Scratch::new("killed");
        let folder = scratch.folder(9, 1 << 20);
        folder.open().unwrap();
        let old = Name { at_ms: 1, counter: 0, process: 1, temporary: true };
        let young = Name { at_ms: 700_000, ..old };
        for name in [old, young] {
            fs::write(folder.path.join(name.to_string()), "{").unwrap();
        }
        folder.save(&request(700_001, 10)).unwrap();
        assert!(!folder.path.join(old.to_string()).exists() && folder.path.join(young.to_string()).exists());
    }

    #[test]
    fn concurrent_saves_each_get_a_file_and_the_limits_hold() {
        let one = request(7, 10).to_json().len();
        for (max_files, max_bytes, left) in [(200, 1 << 20, 160), (8, 1 << 20, 8), (200, 9 * one - 1, 8)] {
            let scratch = Arc::new(Scratch::new(&format!("many-{max_files}-{max_bytes}")));
            // Each thread has its own `Folder`, because separate clients also have separate values.
            let save = move |scratch: Arc<Scratch>| {
                let folder = scratch.folder(max_files, max_bytes);
                (0..10).map(|_| folder.save(&request(7, 10)).unwrap()).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    let scratch = scratch.clone();
                    thread::spawn(move || save(scratch))
                })
                .collect();
            // Old files are removed before the new file appears, so the number of files never
            // exceeds the limit.
            let folder = scratch.folder(max_files, max_bytes);
            while threads.iter().any(|thread| !thread.is_finished()) {
                if folder.path.exists() {
                    let seen = names(&folder).iter().filter(|name| name.ends_with(".json")).count();
                    assert!(seen <= max_files && seen * one <= max_bytes, "{seen} files");
                }
            }
            let mut paths: Vec<PathBuf> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
            paths.sort();
            paths.dedup();
            assert_eq!((paths.len(), names(&folder).len()), (160, left));
            for name in names(&folder) {
                SavedRequest::load(folder.path.join(name)).unwrap();
            }
        }
    }

    #[test]
    fn our_names_parse_and_other_names_do_not() {
        let name = Name { at_ms: 1_763_836_458_123, counter: 7, process: 42, temporary: false };
        assert_eq!(name.to_string(), "tokenwire-failed-1763836458123-42-7.json");
        assert_eq!(Name::parse(&name.to_string()), Some(name));
        assert_eq!(Name::parse(&name.temporary()).map(|name| name.temporary), Some(true));
        for other in [
            "tokenwire-failed-1763836458123-42-7.json.bak",
            "tokenwire-failed-1763836458123-42-07.json",
            "tokenwire-failed-+763836458123-42-7.json",
            "tokenwire-failed-1763836458123-42-7-1.json",
            "tokenwire-failed-1763836458123-42.json",
            "tokenwire-failed-99999999999999999999999-42-7.json",
            "x-tokenwire-failed-1763836458123-42-7.json",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
