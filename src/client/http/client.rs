//! The HTTP client: sends requests through one shared ureq agent and returns responses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use ureq::http::Request;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

use super::fault::fault;
use super::headers::{Redacted, check_url, header};
#[cfg(feature = "testing")]
use super::memory;
use super::resolver::CachingResolver;
use super::response::HttpResponse;
use super::slot::{CancelSlot, Wait};
use super::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, Method, Uri, tap};
use crate::client::threads::alarm::Alarms;
use crate::config::{Limits, MAX_RESPONSE_HEAD_BYTES, MAX_STALE_RETRIES, Timeouts};
use crate::error::macros::debug_fields;
use crate::error::{Error, ErrorKind, Timer};

/// The size in bytes of a connection's send buffer, and of its receive buffer.
///
/// ureq's default is 128 KiB per buffer. ureq fills the buffers with zeros, so they occupy real
/// memory. Buffers of 16 KiB cost no measurable time per token. They reduce the memory of a
/// thousand streams from 310 to 72 MiB.
const BUFFER_BYTES: usize = 16 << 10;
/// The idle time after which a connection is not used again.
///
/// uvicorn, the HTTP server in vLLM, closes idle connections after 5 s.
const MAX_IDLE_AGE: Duration = Duration::from_secs(4);

/// A small blocking HTTP/1.1 client that sends JSON and returns responses in pieces.
///
/// [`ApiClient`](crate::ApiClient) sends its requests with this client. You can also use this
/// client by itself.
///
/// - Connections are kept and reused for 4 s. An older connection is closed at the next request, or
///   when the client is dropped.
/// - Redirects are not followed, because custom headers would be sent to the other host.
/// - Compression is not requested, because proxies delay compressed events.
/// - Proxy settings are not read from the environment.
/// - Every status is a response. An error status is not an error of this client.
/// - Clones share connections. Dropping the last clone closes the idle connections.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// # let script = tokenwire::testing::Script::status(200).json(r#"{"version": "0.1"}"#);
/// # let server = tokenwire::testing::MockServer::scripted([script])?;
/// # let url = server.url();
/// let client = tokenwire::HttpClient::new()?;
/// let response = client.get(&format!("{url}/version"), &[("accept", "application/json")])?;
/// assert_eq!(response.status(), 200);
/// println!("{}", response.text()?);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone)]
pub struct HttpClient {
    agent: Agent,
    alarms: Arc<Alarms>,
    timeouts: Timeouts,
    limits: Limits,
    /// The timeout of requests that a program sends with this type directly.
    timeout: Duration,
}

/// Settings of an [`HttpClient`].
///
/// Start with [`HttpClient::builder`].
///
/// ```
/// use std::time::Duration;
///
/// let client = tokenwire::HttpClient::builder()
///     .connect_timeout(Duration::from_secs(5))
///     .timeout(Duration::from_secs(60))
///     .build()?;
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpClientBuilder {
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) timeout: Duration,
    pub(crate) ca_pem: Option<Redacted<Vec<u8>>>,
    /// The URL may contain a password.
    pub(crate) proxy: Option<Redacted<String>>,
    #[cfg(feature = "testing")]
    pub(crate) memory: Option<memory::InMemory>,
}

impl HttpClientBuilder {
    /// Limits the total time of name lookup, TCP connect and TLS handshake. Default: 30 s.
    ///
    /// If a host has several addresses, all attempts together have this limit. Each address gets
    /// half the time of the previous address.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.connect = Some(limit);
        self
    }

    /// Limits the wait for the head of a response, then for each piece of its body. Default: 600 s.
    ///
    /// The wait for the head includes the time to connect. The time for the whole response has no
    /// limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Trusts these certificate authorities for `https`, **instead of** the built-in Mozilla list.
    ///
    /// `pem` contains one or more certificates in PEM format. Most programs use this for the
    /// private authority of a company or a cluster.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(Redacted(pem.into()));
        self
    }

    /// Sends all requests through this proxy.
    ///
    /// By default, no proxy is used, even if the environment sets one.
    ///
    /// The URL begins with `http://`, `https://`, `socks4://`, `socks4a://`, `socks5://` or
    /// `socks5h://`. It may contain `user:password@`.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(Redacted(url.into()));
        self
    }

    /// Builds the client. It does not connect yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput): the PEM text is invalid or contains no
    /// certificate, or the proxy URL is invalid.
    pub fn build(self) -> Result<HttpClient, Error> {
        self.build_with(CachingResolver::default())
    }

    pub(super) fn build_with(self, resolver: CachingResolver) -> Result<HttpClient, Error> {
        let Self { limits, timeout, .. } = self;
        let timeouts = self.timeouts.bounded();
        // Do not show the URL: it may contain a password.
        let proxy = self.proxy.map(|Redacted(url)| Proxy::new(&url)).transpose();
        let proxy = proxy.map_err(|_| Error::invalid("the proxy URL is not valid"))?;
        let mut tls = TlsConfig::builder();
        if let Some(Redacted(pem)) = self.ca_pem {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates(&pem)?)));
        }
        let config = Agent::config_builder()
            .proxy(proxy)
            .tls_config(tls.build())
            .user_agent(concat!("tokenwire/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_response_header_size(MAX_RESPONSE_HEAD_BYTES)
            .max_idle_connections(limits.max_idle_connections)
            .max_idle_connections_per_host(limits.max_idle_connections)
            .max_idle_age(MAX_IDLE_AGE)
            .timeout_resolve(timeouts.connect)
            .timeout_connect(timeouts.connect)
            .timeout_per_write(timeouts.write)
            .build();
        let alarms = Alarms::new();
        let connector = tap::TapConnector::new(alarms.clone());
        #[cfg(feature = "testing")]
        let connector = match self.memory {
            Some(server) => connector.over(memory::MemoryConnector(server)),
            None => connector,
        };
        let agent = Agent::with_parts(config, connector, resolver);
        Ok(HttpClient { agent, alarms, timeouts, limits, timeout })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, Error> {
    let items = parse_pem(pem).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|e| Error::invalid("the CA certificates are not valid PEM").with_source(e))?;
    let certificate = |item| if let PemItem::Certificate(found) = item { Some(found) } else { None };
    let found: Vec<_> = items.into_iter().filter_map(certificate).collect();
    if found.is_empty() {
        return Err(Error::invalid("the PEM text of the CA contains no certificate"));
    }
    Ok(found)
}

/// A request that is ready to be sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a [u8],
    /// Limits how often the request is resent because the server had closed its pooled connection.
    pub(crate) max_stale_retries: u32,
}

impl HttpClient {
    /// Creates a client with the default settings.
    ///
    /// # Errors
    ///
    /// The default settings cause no error. The function returns a `Result` only because
    /// [`HttpClientBuilder::build`] returns one.
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> HttpClientBuilder {
        HttpClientBuilder {
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            timeout: Duration::from_secs(600),
            ca_pem: None,
            proxy: None,
            #[cfg(feature = "testing")]
            memory: None,
        }
    }

    /// Sends a request without a body and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// The errors are the same as for [`send_json`](Self::send_json).
    pub fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<HttpResponse, Error> {
        self.send_checked(Method::GET, url, headers, &[])
    }

    /// Sends `body` as JSON with `method`, and waits for the head of the response.
    ///
    /// `method` is the name of an HTTP method, such as `"POST"`. The client's `timeout` limits the
    /// wait. A response is an `Ok`, even if its status is an error.
    ///
    /// A request on a kept connection is sent again, at most twice, if no byte of a response
    /// arrives. The usual reason is that the server has just closed the connection. But the server
    /// may also have read the request and then died. To the client, both cases look the same, so
    /// such a server receives the request twice.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the URL, the method or a header is invalid, or the body cannot be written
    ///   as JSON
    /// - `Refused`, `Connect` or `Timeout`: see [`ErrorKind`]
    /// - `Incomplete`: the connection was closed before the head was complete
    /// - `Limit` or `Protocol`: the head is too large or invalid
    pub fn send_json(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &(impl Serialize + ?Sized),
    ) -> Result<HttpResponse, Error> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|e| Error::invalid("the HTTP method is not valid").with_source(e))?;
        let body = serde_json::to_vec(body)
            .map_err(|e| Error::invalid("the body cannot be written as JSON").with_source(e))?;
        self.send_checked(method, url, headers, &body)
    }

    fn send_checked(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<HttpResponse, Error> {
        let url = check_url(url)?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let (name, value) = header(name, value)?;
            map.append(name, value);
        }
        let wait = Wait::since(Instant::now(), self.timeout, Timer::Response);
        let outgoing =
            Outgoing { method, url: &url, headers: map, body, max_stale_retries: MAX_STALE_RETRIES };
        self.send(outgoing, &CancelSlot::new(), Some(wait))
    }

    pub(crate) fn alarms(&self) -> Arc<Alarms> {
        self.alarms.clone()
    }

    /// Sends a request with the cancel state `slot`, and waits at most `wait` for the response
    /// head.
    ///
    /// If the server had already closed a pooled connection, the request is sent again on another
    /// connection, because no byte of a response had arrived. If the server instead read the
    /// request and then died without sending a byte, the client sees the same. The server then
    /// receives the request twice.
    pub(crate) fn send(
        &self,
        mut outgoing: Outgoing<'_>,
        slot: &Arc<CancelSlot>,
        wait: Option<Wait>,
    ) -> Result<HttpResponse, Error> {
        if !outgoing.body.is_empty() {
            outgoing.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        }
        outgoing.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        outgoing.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let hidden = tap::hide(&mut outgoing.headers);
        let mut stale_retries = 0;
        loop {
            slot.begin(wait);
            let error = match tap::with_slot(slot, hidden.clone(), || self.call(&outgoing)) {
                Ok(response) if slot.is_cancelled() => {
                    drop(response);
                    return Err(Error::cancelled());
                }
                Ok(response) => {
                    return HttpResponse::new(response, slot.clone(), self.timeout, self.limits);
                }
                Err(error) => {
                    // The authority is only the host and the port, because `check_url` rejects a
                    // URL with a user name.
                    let server = outgoing.url.authority().map_or("the server", |at| at.as_str());
                    fault(error, slot, &self.timeouts, server)
                }
            };
            let again = error.kind() == ErrorKind::Incomplete && slot.was_stale();
            if !again || stale_retries >= outgoing.max_stale_retries {
                return Err(error);
            }
            stale_retries += 1;
            slot.count_stale_retry();
            log::debug!("the server closed the pooled connection; sending the request again");
        }
    }

    fn call(&self, outgoing: &Outgoing<'_>) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = Request::builder().method(&outgoing.method).uri(outgoing.url);
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&outgoing.headers);
        }
        if outgoing.body.is_empty() {
            self.agent.run(request.body(())?)
        } else {
            self.agent.run(request.body(outgoing.body)?)
        }
    }
}

debug_fields! { HttpClient { timeouts, limits } }

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn lookup_connect_and_handshake_share_the_connect_timer() {
        // The listener never calls `accept`, so the TLS handshake gets no answer.
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let limit = Duration::from_millis(1500);
        let took = || {
            let lookup = move |_: &str, _| {
                thread::sleep(limit - limit / 15);
                Ok(vec![at])
            };
            let resolver = CachingResolver::new(lookup, limit);
            let client = HttpClient::builder().connect_timeout(limit).build_with(resolver).unwrap();
            let began = Instant::now();
            let error = client.get("https://name.test/", &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Connect), "{error}");
            began.elapsed()
        };
        // If connect and handshake had separate timers, every attempt would take nearly twice as
        // long. The test needs only one fast attempt of five, because a busy machine may delay the
        // other attempts.
        assert!((0..5).any(|_| (limit..limit * 9 / 5).contains(&took())));
    }
}
