//! The rules of single lines, pure functions of their bytes.

use super::{SSE_STRAY_BYTES_MAX, Stray};

/// The value of the line if it is a field of this name. "Collect the characters on the line after the first
/// U+003A COLON character (:) [..]. If value starts with a U+0020 SPACE character, remove it from value." A
/// line without a colon is a field with an empty value.
#[inline]
pub(super) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [] => Some(&[]),
        _ => None,
    }
}

/// "If the field value consists of only ASCII digits, then interpret the field value as an integer in base
/// ten, and set the event stream's reconnection time to that integer. Otherwise, ignore the field."
pub(super) fn milliseconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0_u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// `text` becomes `bytes` decoded as [`String::from_utf8_lossy`] does, in the memory that it has.
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

/// An ignored line, if it looks like an error.
#[cold]
pub(super) fn stray(line: &[u8]) -> Option<Stray> {
    if let Some(value) = field(line, b"error") {
        return Some(Stray::ErrorField(stray_text(value)));
    }
    let line = line.trim_ascii_start();
    matches!(line, [b'{' | b'<', ..]).then(|| Stray::Line(stray_text(line)))
}

/// At most [`SSE_STRAY_BYTES_MAX`] bytes, cut before a character that would be cut.
fn stray_text(bytes: &[u8]) -> String {
    let mut len = bytes.len().min(SSE_STRAY_BYTES_MAX);
    while len < bytes.len() && len > 0 && bytes[len] & 0xC0 == 0x80 {
        len -= 1;
    }
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}
