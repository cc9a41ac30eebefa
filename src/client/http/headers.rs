//! Checks URLs and headers before they are sent, and decides which headers may be shown.

use std::fmt;

use super::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, Uri};
use crate::error::Error;
use crate::error::escape::printable;
use crate::error::secrets::REDACTED;

/// Lists the headers whose values ureq must read. None of these headers is a credential.
const READ_BY_UREQ: [&str; 5] = ["connection", "content-length", "expect", "host", "transfer-encoding"];

/// A value that is or contains a credential, or is too long to show. `Debug` does not print it.
#[derive(Clone)]
pub(crate) struct Redacted<T>(pub(crate) T);

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Parses a URL and checks that a request can be sent to it.
pub(crate) fn check_url(url: &str) -> Result<Uri, Error> {
    // Do not show the URL: it may contain a password.
    let no_scheme = || Error::invalid("the URL must begin with http:// or https://");
    let uri: Uri = match url.parse() {
        Ok(uri) => uri,
        // A missing scheme is the most common mistake, but the parser's message does not mention
        // the scheme.
        Err(_) if !url.contains("://") => return Err(no_scheme()),
        Err(error) => return Err(Error::invalid("the URL is not valid").with_source(error)),
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(no_scheme());
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(Error::invalid(
            "the URL contains a user name; put credentials into the API key or a header",
        ));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(Error::invalid("the URL has no host"));
    }
    // Without this check, an invalid port would silently become the default port of the scheme. A
    // port over 65,535 and an empty port are invalid.
    if uri.port_u16().is_none() && !authority.ends_with(uri.host().unwrap_or_default()) {
        return Err(Error::invalid("the URL has an invalid port"));
    }
    Ok(uri)
}

/// Parses a header and checks that it can be sent.
///
/// A value that may be a credential is marked as sensitive. ureq and its log then never get the
/// value.
pub(crate) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let bad = |what: &str| {
        let name = printable(name, 64);
        Error::invalid(format!("the {what} of the header {name:?} has characters that HTTP does not allow"))
    };
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("name"))?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| bad("value"))?;
    let read_by_ureq = READ_BY_UREQ.contains(&parsed.as_str());
    value.set_sensitive(!read_by_ureq && !is_open_header(parsed.as_str()));
    Ok((parsed, value))
}

/// Returns true if tokenwire knows that a header is not a credential.
///
/// Such a header may be saved and shown. Any other header could be a credential.
pub(crate) fn is_open_header(name: &str) -> bool {
    let open = ["accept", "x-request-id", "traceparent", "user-agent", "content-type"];
    open.iter().any(|open| open.eq_ignore_ascii_case(name))
}

/// Returns the headers that may be saved and shown.
pub(crate) fn open_headers(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    visible_headers(headers).filter(|(name, _)| is_open_header(name))
}

/// Returns the headers whose values are visible ASCII.
pub(super) fn visible_headers(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
}

/// Returns the names and values of the headers that may be credentials.
pub(crate) fn sensitive_headers(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let sensitive = headers.iter().filter(|(_, value)| value.is_sensitive());
    sensitive.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
}

/// Returns an error if the body is compressed or encoded. tokenwire requests only `identity`.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let encoding = printable(&String::from_utf8_lossy(encoding.as_bytes()), 64);
            Err(Error::protocol(format!(
                "the server sent content-encoding {encoding:?}, which tokenwire did not request"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn urls_that_could_leak_or_fail_are_refused() {
        let cases = [
            ("http://127.0.0.1:8000/v1", true),
            ("https://[::1]/v1", true),
            ("ftp://host.test/", false),
            ("http://user:secret@host.test/", false),
            ("http:///v1", false),
            ("/v1", false),
            ("http://127.0.0.1:99999", false),
            ("http://host.test:/v1", false),
            ("http://[::1]:70000/", false),
            ("https://host.test", true),
            ("http://host.test/a b", false),
            ("http://host.test/\r\nx: y", false),
            ("host.test:8000/v1", false),
            ("localhost", false),
        ];
        for (url, good) in cases {
            match check_url(url) {
                Ok(_) => assert!(good, "{url}"),
                Err(error) => {
                    assert!(!good, "{url}: {error}");
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    assert!(!format!("{error:?}").contains("secret"));
                    let says_scheme = error.to_string().contains("begin with http://");
                    assert_eq!(says_scheme, !url.starts_with("http"), "{url}: {error}");
                }
            }
        }
    }

    #[test]
    fn headers_reject_line_breaks_and_debug_output_hides_their_values() {
        assert!(header("x-api-key", "a\r\nx-evil: 1").is_err());
        assert!(header("x key", "a").is_err());
        let (_, value) = header("x-api-key", " canary ").unwrap();
        assert_eq!(value, "canary");
        assert!(!format!("{value:?}").contains("canary"));
    }

    #[test]
    fn only_headers_that_may_be_credentials_are_sensitive() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-request-id", "r-1"), ("accept", "*/*"), ("x-key", "canary")] {
            let (name, value) = header(name, value).unwrap();
            headers.insert(name, value);
        }
        assert_eq!(sensitive_headers(&headers).collect::<Vec<_>>(), [("x-key", "canary")]);
        let open: Vec<_> = open_headers(&headers).map(|(name, _)| name).collect();
        assert_eq!(open, ["x-request-id", "accept"]);
    }
}
