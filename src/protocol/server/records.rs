//! Records in JSON that a program reads: dialects and servers of its own.

use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// What was made of the records that were read: kept as long as the program, so that what refers to it can be copied. The
/// same text read again is the same.
pub(crate) struct Kept<T: 'static> {
    /// As which errors speak of one and of several.
    names: (&'static str, &'static str),
    max_bytes: usize,
    max_count: usize,
    read: Mutex<Vec<(Box<str>, &'static T)>>,
}

impl<T> Kept<T> {
    pub(crate) const fn new(names: (&'static str, &'static str), max_bytes: usize, max_count: usize) -> Self {
        Self { names, max_bytes, max_count, read: Mutex::new(Vec::new()) }
    }

    /// Reads `text`, unless it was read before; `keep` is called only for what is kept.
    pub(crate) fn get<R>(
        &self,
        text: &str,
        read: impl FnOnce(&str) -> Result<R, String>,
        keep: impl FnOnce(R) -> &'static T,
    ) -> Result<&'static T, Error> {
        let (one, several) = self.names;
        if text.len() > self.max_bytes {
            let (n, max) = (text.len(), self.max_bytes);
            return Err(Error::invalid(format!("not a {one}: {n} bytes are more than {max}")));
        }
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kept)) = known.iter().find(|(known, _)| **known == *text) {
            return Ok(kept);
        }
        let record = read(text).map_err(|why| Error::invalid(format!("not a {one}: {why}")))?;
        if known.len() >= self.max_count {
            let max = self.max_count;
            return Err(Error::invalid(format!("more than {max} different {several} were read")));
        }
        let kept = keep(record);
        known.push((text.into(), kept));
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once_and_so_many_are_kept() {
        let kept: Kept<usize> = Kept::new(("length", "lengths"), 4, 2);
        let read = |text: &str| match text {
            "" => Err("empty at line 1".to_owned()),
            text => Ok(text.len()),
        };
        let get = |text: &str| kept.get(text, read, |n| Box::leak(Box::new(n)));
        let refused = |text: &str| get(text).unwrap_err().message().to_owned();
        let first = get("a").unwrap();
        assert_eq!(refused(""), "not a length: empty at line 1");
        assert_eq!(refused("abcde"), "not a length: 5 bytes are more than 4");
        assert_eq!(*get("abcd").unwrap(), 4);
        assert_eq!(refused("ab"), "more than 2 different lengths were read");
        assert!(std::ptr::eq(first, get("a").unwrap()), "what was read before costs nothing");
    }
}
