//! Checks the headers of a request.

use crate::error::Error;
use crate::error::escape::printable;

/// Headers that the client writes itself.
pub(crate) const OWNED_HEADERS: [&str; 6] =
    ["authorization", "host", "content-length", "transfer-encoding", "accept-encoding", "content-type"];

/// Checks a header by the rules of RFC 9110, sections 5.1 and 5.5.
///
/// The name must be a `token`. The value must be visible ASCII, and may contain spaces between
/// visible characters. `obs-text` is rejected.
pub(crate) fn validate_header(name: &str, value: &str, owned: &[&str]) -> Result<(), Error> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Error::invalid(format!("invalid header name: {:?}", printable(name, 80))));
    }
    if owned.iter().any(|owned| owned.eq_ignore_ascii_case(name)) {
        return Err(Error::invalid(format!("cannot set the header {name}: the client writes it itself")));
    }
    // The message leaves the value out, because the value may be a credential.
    if value.trim() != value || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Error::invalid(format!(
            "invalid value of the header {name}: expected visible ASCII, with spaces only inside"
        )));
    }
    Ok(())
}

/// Returns whether the text is a valid traceparent by W3C Trace Context, section 3.2.
///
/// Its parts are version, trace id, parent id and flags. A version of `ff` is invalid, and so is an
/// id that contains only zeros.
pub(super) fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let sizes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    sizes == [2, 32, 16, 2]
        && parts.iter().all(|part| is_hex(part))
        && parts[0] != "ff"
        && !is_zero(parts[1])
        && !is_zero(parts[2])
}
