//! The base URLs of servers. tokenwire appends the path of an endpoint to a base URL.

use std::net::IpAddr;

use crate::client::http::Uri;
use crate::client::http::headers::check_url;
use crate::error::Error;

/// The base URL of a server, with and without the API version.
///
/// OpenAI's paths are appended to `api`. The native paths of a server are appended to `root`.
#[derive(Debug, Clone)]
pub(crate) struct BaseUrl {
    /// The URL with the version: `http://host:8000/v1`.
    pub(crate) api: String,
    /// The URL without the version: `http://host:8000`.
    root: String,
    plain_and_far: bool,
}

impl BaseUrl {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        let uri = check_url(url.trim())?;
        if uri.query().is_some() {
            return Err(Error::invalid("the base URL must not have a query"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let plain_and_far = uri.scheme_str() == Some("http") && !near;
        let place = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or("http"),
            uri.authority().map_or("", |authority| authority.as_str())
        );
        let path = uri.path().trim_end_matches('/');
        Ok(if path.is_empty() {
            Self { api: format!("{place}/v1"), root: place, plain_and_far }
        } else {
            let root = path.strip_suffix("/v1").unwrap_or(path);
            Self { api: format!("{place}{path}"), root: format!("{place}{root}"), plain_and_far }
        })
    }

    pub(super) fn join(&self, path: &str, at_root: bool) -> Result<Uri, Error> {
        let below = if at_root { &self.root } else { &self.api };
        check_url(&format!("{below}{path}"))
    }

    pub(crate) fn is_plain_and_far(&self) -> bool {
        self.plain_and_far
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::server::endpoint::Endpoint;

    #[test]
    fn a_base_url_without_a_path_gets_the_version() {
        let cases = [
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080/v1/completions",
                "http://127.0.0.1:8080/completion",
            ),
            (
                "http://127.0.0.1:8080/",
                "http://127.0.0.1:8080/v1/completions",
                "http://127.0.0.1:8080/completion",
            ),
            ("http://h.test/v1", "http://h.test/v1/completions", "http://h.test/completion"),
            (
                "http://h.test/proxy/v1",
                "http://h.test/proxy/v1/completions",
                "http://h.test/proxy/completion",
            ),
            (
                " https://h.test/api/v1/ ",
                "https://h.test/api/v1/completions",
                "https://h.test/api/completion",
            ),
            ("http://[::1]:1/x", "http://[::1]:1/x/completions", "http://[::1]:1/x/completion"),
        ];
        for (base, api, root) in cases {
            let base = BaseUrl::new(base).unwrap();
            for (endpoint, url) in
                [(Endpoint::Auto, api), (Endpoint::OpenAi, api), (Endpoint::LlamaCpp, root)]
            {
                let (path, at_root) = endpoint.path();
                assert_eq!(base.join(path, at_root).unwrap(), url, "{endpoint}");
            }
        }
        assert!(BaseUrl::new("http://h.test/v1?key=1").is_err());
    }

    #[test]
    fn only_plain_http_to_another_host_is_plain_and_far() {
        for (url, far) in [
            ("http://127.0.0.1/v1", false),
            ("http://localhost:1/v1", false),
            ("http://[::1]/v1", false),
            ("https://h.test/v1", false),
            ("http://10.0.0.7/v1", true),
        ] {
            assert_eq!(BaseUrl::new(url).unwrap().is_plain_and_far(), far, "{url}");
        }
    }
}
