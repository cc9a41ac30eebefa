//! Checks the head of a response, and converts an error response into an error.

use std::borrow::Cow;

use crate::client::http::Uri;
use crate::client::http::response::HttpResponse;
use crate::error::Error;
use crate::error::escape::printable;
use crate::error::secrets::Secrets;
use crate::protocol::chunk::body::not_an_event_stream;
use crate::protocol::chunk::server_error::server_error_from_body;

/// Returns an error unless the response is a 2xx event stream.
pub(crate) fn check_head(response: &mut HttpResponse, secrets: &Secrets) -> Result<(), Error> {
    if response.status() / 100 != 2 {
        return Err(status_error(response, secrets));
    }
    match response.header("content-type") {
        // Without a content type, the first byte of the body decides.
        None => Ok(()),
        Some(kind) if is_event_stream(kind) => Ok(()),
        Some(_) => {
            let body = redacted_body(response, secrets);
            Err(not_an_event_stream(response.header("content-type"), &body))
        }
    }
}

/// Returns the error for a status other than 2xx, with the message from the body.
pub(crate) fn status_error(response: &mut HttpResponse, secrets: &Secrets) -> Error {
    let body = redacted_body(response, secrets);
    let status = response.status();
    let mut server = server_error_from_body(Some(status), response.header("content-type"), &body);
    if let (301..=308, Some(location)) = (status, response.header("location")) {
        // tokenwire does not follow redirects. The error message contains only the host of the new
        // URL.
        let host = location.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        server.message = format!(
            "tokenwire does not follow the redirect to {}",
            printable(host.as_deref().unwrap_or("another path"), 256)
        );
    }
    let request_id = response.header("x-request-id").map(|id| secrets.word(id));
    Error::server(server).with_request_id(request_id.as_deref()).redacted(secrets)
}

/// Reads the start of the body and removes credentials that the server may have echoed.
///
/// Call this function before you extract a message from the body and shorten it.
fn redacted_body(response: &mut HttpResponse, secrets: &Secrets) -> Vec<u8> {
    let body = response.error_body();
    match secrets.redact(&String::from_utf8_lossy(&body)) {
        Cow::Owned(clean) => clean.into_bytes(),
        Cow::Borrowed(_) => body,
    }
}

fn is_event_stream(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream")
}
