//! Functions that read a single line. They depend only on its bytes.

use memchr::memchr2;
use simdutf8::basic::from_utf8;

use super::event::{MAX_SSE_STRAY_BYTES, Stray};

/// The number of bytes that one step of the search tests.
const BLOCK_BYTES: usize = 128;

/// Returns the position of the first CR or LF among the first `len` bytes.
#[inline]
pub(super) fn line_end(bytes: &[u8], len: usize) -> Option<usize> {
    let line = &bytes[..len];
    let at = control(bytes, len);
    match line.get(at)? {
        b'\n' | b'\r' => Some(at),
        // The control character is not a line end. Compact JSON never contains such a character.
        _ => Some(at + memchr2(b'\n', b'\r', &line[at..])?),
    }
}

/// Returns the position of the first byte below 0x20 in the first `len` bytes, or at least `len`.
///
/// The result is `len` or more if the first `len` bytes contain no such byte.
///
/// The function tests blocks of 128 bytes, for which the compiler generates SIMD code, and then
/// blocks of eight. It needs two thirds of the instructions of `memchr2`. The last block may
/// include bytes after `len`, which can have any value.
#[inline(always)]
pub(super) fn control(bytes: &[u8], len: usize) -> usize {
    let with_filling = &bytes[..bytes.len().min(len + BLOCK_BYTES - 1)];
    let mut at = 0;
    for block in with_filling.chunks_exact(BLOCK_BYTES) {
        if !has_control(block) {
            at += BLOCK_BYTES;
            continue;
        }
        for eight in block.chunks_exact(8) {
            match first_control(eight) {
                None => at += 8,
                Some(n) => return at + n,
            }
        }
    }
    // The buffer may end before the last block is full. Test its bytes one by one.
    while at < len && bytes[at] >= 0x20 {
        at += 1;
    }
    at
}

/// Returns whether one of the bytes is below 0x20. The number of bytes is a multiple of 16.
#[inline]
fn has_control(bytes: &[u8]) -> bool {
    let mut lowest = [0xff; 16];
    for part in bytes.chunks_exact(16) {
        lowest.iter_mut().zip(part).for_each(|(low, byte)| *low = (*low).min(*byte));
    }
    lowest.iter().fold(false, |found, low| found | (*low < 0x20))
}

/// Returns the position of the first byte below 0x20 in a block of eight bytes.
#[inline]
fn first_control(eight: &[u8]) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(eight.try_into().ok()?);
    // The subtraction sets the highest bit of each byte that is below 0x20 or not ASCII. A borrow
    // changes only later bytes, so the first byte with this bit is correct.
    let odd = word.wrapping_sub(0x20 * EACH) & (0x80 * EACH);
    if odd == 0 {
        return None;
    }
    let under = odd & !word;
    (under != 0).then_some(under.trailing_zeros() as usize / 8)
}

/// The number of bytes that simdutf8 checks together.
const CHECKED_BYTES: usize = 64;

/// Returns the first `len` bytes as text, if they are UTF-8.
///
/// The function checks whole blocks, because a partial block takes as long as three whole blocks.
/// The bytes after `len` in the last block must therefore be UTF-8 too.
#[inline]
pub(super) fn text_in_blocks(bytes: &[u8], len: usize) -> Option<&str> {
    let whole = bytes.get(..(len | (CHECKED_BYTES - 1)) + 1)?;
    if whole.len() < CHECKED_BYTES {
        return None;
    }
    from_utf8(whole).ok()?.get(..len)
}

/// Returns the value of the line, if it is a field with this name.
///
/// "Collect the characters on the line after the first U+003A COLON character (:) [..]. If value
/// starts with a U+0020 SPACE character, remove it from value." A line without a colon is a field
/// with an empty value.
#[inline]
pub(super) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [] => Some(&[]),
        _ => None,
    }
}

/// Parses a reconnection time.
///
/// "If the field value consists of only ASCII digits, then interpret the field value as an integer
/// in base ten, and set the event stream's reconnection time to that integer. Otherwise, ignore the
/// field."
pub(super) fn milliseconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0_u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Replaces the contents of `text` with `bytes`, decoded like [`String::from_utf8_lossy`].
///
/// The memory of `text` is used again.
#[cold]
pub(super) fn replace(text: &mut String, bytes: &[u8]) {
    text.clear();
    for part in bytes.utf8_chunks() {
        text.push_str(part.valid());
        if !part.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Returns an ignored line as a [`Stray`], if the line looks like an error.
#[cold]
pub(super) fn stray(line: &[u8]) -> Option<Stray> {
    if let Some(value) = field(line, b"error") {
        return Some(Stray::ErrorField(stray_text(value)));
    }
    let line = line.trim_ascii_start();
    matches!(line, [b'{' | b'<', ..]).then(|| Stray::Line(stray_text(line)))
}

/// Returns at most [`MAX_SSE_STRAY_BYTES`] bytes as text, without cutting a character.
fn stray_text(bytes: &[u8]) -> String {
    let mut len = bytes.len().min(MAX_SSE_STRAY_BYTES);
    while len < bytes.len() && len > 0 && bytes[len] & 0xC0 == 0x80 {
        len -= 1;
    }
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_a_slow_search_finds_it() {
        let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
        for len in (0..200).step_by(3) {
            for fill in [b'x', b' ', 0x7f, b'\t', 0, 0x80, 0xff] {
                let mut line = vec![b'x'; len];
                for odd in 0..=len {
                    for end in [b'\n', b'\r'] {
                        // The line contains an unusual byte. Its line end follows a few bytes
                        // later, replaces the unusual byte, or is missing.
                        line.fill(b'x');
                        line.iter_mut().skip(odd).take(1).for_each(|byte| *byte = fill);
                        line.iter_mut().skip(odd + odd % 11).take(1).for_each(|byte| *byte = end);
                        let found = line.iter().position(ends);
                        assert_eq!(line_end(&line, len), found, "{line:?}");
                        // After the line, the buffer contains bytes of an earlier read.
                        line.resize(len + 150, end);
                        assert_eq!(line_end(&line, len), found, "{line:?}");
                        line.truncate(len);
                    }
                }
            }
        }
    }
}
