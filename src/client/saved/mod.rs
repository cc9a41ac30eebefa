//! Saves failed requests, so that you can send them again.
//!
//! - [`request`] defines the value.
//! - [`form`] defines the format of a file.
//! - [`folder`] writes the files.
//!
//! tokenwire saves requests only if you set a folder with
//! [`ApiClientBuilder::save_failed`](crate::ApiClientBuilder::save_failed). tokenwire then writes
//! one file for each stream that fails. The file is a JSON object on one line. The example is
//! wrapped:
//!
//! ```text
//! {"tokenwire_failed_request":1,"at_ms":1763836458123,"method":"POST",
//!  "url":"http://127.0.0.1:8000/v1/completions","endpoint":"auto","headers":[["accept","text/event-stream"]],
//!  "call":false,"redacted":false,
//!  "failure":{"kind":"timeout","detail":"chunk","message":"...","causes":[],"status":null,
//!   "request_id":"cmpl-7","tokens":2,"events":3,"bytes":412,"elapsed_us":120016225},
//!  "body":{"prompt":[785,6722],"stream":true}}
//! ```
//!
//! The body is the JSON that was sent, byte for byte. A body that is not JSON is stored as a
//! string, `body_text`. The file contains the prompt, because a new attempt needs the prompt. From
//! the response, the file contains only the server's error message, the status and the request id.

pub(crate) mod folder;
pub(crate) mod form;
pub(crate) mod request;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::client::http::HeaderMap;
    use crate::client::http::headers::{check_url, header};
    use crate::client::saved::request::{SavedRequest, Sent};
    use crate::error::{Error, ErrorKind, Limit, Progress, ServerError, Timer};
    use crate::protocol::server::endpoint::Endpoint;

    const KEY: &str = "sk-canary-0001";
    const OTHER: &str = "canary-0002-of-a-gateway";

    pub(super) fn saved(body: &str, error: &Error) -> SavedRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "text/event-stream"),
            ("x-request-id", "r-1"),
            ("x-gateway", OTHER),
            ("x-affinity", "s"),
        ] {
            let (name, value) = header(name, value).unwrap();
            headers.insert(name, value);
        }
        let (name, value) = header("authorization", &format!("Bearer {KEY}")).unwrap();
        headers.insert(name, value);
        let url = check_url("http://h.test:8000/v1/completions").unwrap();
        let body = body.as_bytes().to_vec();
        SavedRequest::new(
            Sent { url: &url, endpoint: Endpoint::Auto, headers: &headers, body, call: false },
            error,
        )
    }

    fn errors() -> [Error; 4] {
        let progress =
            Progress { bytes: u64::MAX, events: 3, tokens: 2, elapsed: Duration::from_nanos(1_234_567) };
        let said =
            ServerError { status: Some(503), message: format!("no {OTHER} \"é\"\n"), ..Default::default() };
        [
            Error::timeout(Timer::Chunk, Duration::from_secs(1)).with_progress(progress),
            Error::server(said).with_request_id(Some("r\u{1}")),
            Error::limit(Limit::EventBytes, 7),
            Error::new(ErrorKind::Connect, "could not connect").with_source(std::io::Error::other(KEY)),
        ]
    }

    #[test]
    fn a_saved_request_loads_back_equal_with_every_byte_of_the_body() {
        let bodies = [
            r#"{"z":1,"a":[785, 6722],"f":1.50,"big":123456789012345678901234567890,"é":"\u00e9\n"}"#,
            "[1,\n2]",
            "",
            "null",
            "no JSON \"\u{1f600}\" \\",
            " {\"blanks\":1} ",
            "{\"twice\":1}{}",
        ];
        for error in errors() {
            for body in bodies {
                let request = saved(body, &error);
                let json = request.to_json();
                let loaded = SavedRequest::from_json(json.as_bytes()).unwrap();
                assert_eq!(loaded, request);
                assert_eq!(loaded.body(), body.as_bytes());
                assert_eq!(
                    serde_json::from_str::<serde_json::Value>(&json).unwrap()["tokenwire_failed_request"],
                    1
                );
            }
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let request = saved(&deep, &errors()[0]);
        assert_eq!(SavedRequest::from_json(request.to_json().as_bytes()).unwrap(), request);
    }

    #[test]
    fn a_truncated_file_is_an_error_and_a_damaged_file_does_not_panic() {
        for body in [r#"{"prompt":[1,2],"text":"é"}"#, "no JSON"] {
            let json = saved(body, &errors()[1]).to_json().into_bytes();
            // A file that lacks more than its line end is not valid.
            for cut in 0..json.len() - 1 {
                let error = SavedRequest::from_json(&json[..cut]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "cut at {cut}");
            }
            for at in 0..json.len() {
                for byte in [0, b'"', b'}', b'9', 0xff] {
                    let mut damaged = json.clone();
                    damaged[at] = byte;
                    let _ = SavedRequest::from_json(&damaged);
                }
            }
        }
    }

    #[test]
    fn a_file_with_an_invalid_field_is_refused() {
        let json = saved("{}", &errors()[0]).to_json();
        let changed = |from: &str, to: &str| {
            assert!(json.contains(from), "{from}");
            SavedRequest::from_json(json.replace(from, to).as_bytes())
        };
        for (from, to) in [
            ("request\":1", "request\":2"),
            ("\"auto\"", "\"morse\""),
            ("\"auto\"", "\"llamacpp\""),
            ("http://h.test", "http://user:pass@h.test"),
            ("http://h.test", "file://h.test"),
            ("\"body\":{}", "\"body\":{},\"body_text\":\"\""),
            ("\"body\":{}", "\"nobody\":{}"),
            ("\"tokens\":2", "\"tokens\":-2"),
        ] {
            assert_eq!(changed(from, to).unwrap_err().kind(), ErrorKind::InvalidInput, "{to}");
        }
        // A header that could be a credential is never sent again, even if a person has added it to
        // the file.
        let planted =
            changed("[\"accept\"", "[\"authorization\",\"x\"],[\"Host\",\"x\"],[\"accept\"").unwrap();
        assert_eq!(planted.headers().map(|(name, _)| name).collect::<Vec<_>>(), ["accept", "x-request-id"]);
    }

    #[test]
    fn no_credential_is_in_the_file_or_in_debug_output() {
        for error in errors() {
            for body in [r#"{"prompt":"Hi"}"#, &format!(r#"{{"prompt":"my key is {KEY}"}}"#)] {
                let request = saved(body, &error);
                let shown = format!("{}{request:?}", request.to_json());
                assert!(!shown.contains(KEY) && !shown.contains(OTHER), "{shown}");
                assert_eq!(request.is_redacted(), body.contains(KEY));
                assert!(!format!("{request:?}").contains("prompt"));
            }
        }
        let [.., cause] = errors();
        assert_eq!(saved("{}", &cause).failure().causes, ["[redacted]"]);
    }

    #[test]
    fn the_base_url_leads_to_the_saved_url() {
        for (endpoint, url, base) in [
            (Endpoint::Auto, "http://h.test/v1/completions", "http://h.test/v1"),
            (Endpoint::LlamaCpp, "http://h.test/completion", "http://h.test"),
            (Endpoint::VllmGenerate, "https://h.test/p/inference/v1/generate", "https://h.test/p"),
        ] {
            let request = SavedRequest { endpoint, url: url.to_owned(), ..saved("{}", &errors()[0]) };
            assert_eq!(request.base_url(), base);
        }
    }
}
