//! Out of a company's network, and into a server with a certificate of its own.
//!
//! ```
//! use tokenwire::ApiClient;
//!
//! # let pem = ""; let _ = pem;
//! let client = ApiClient::builder("https://models.example/v1")
//!     .api_key("sk-0123456789")
//!     .proxy("http://user:password@proxy.example:3128")
//!     .build()?;
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! **Proxies.** None is taken from the environment: a program that embeds this library must not change its traffic because of a
//! variable. [`proxy`](crate::ApiClientBuilder::proxy) takes `http`, `https`, `socks4`, `socks4a`, `socks5` and `socks5h` URLs. To have
//! `HTTPS_PROXY` obeyed, read it in your program.
//!
//! **TLS** is rustls with ring, its roots are Mozilla's list, built in. [`ca_pem`](crate::ApiClientBuilder::ca_pem) replaces that list by an
//! authority of your own. There is no switch to accept any certificate; client certificates are not supported. A handshake that fails is
//! [`ErrorKind::Connect`](crate::ErrorKind::Connect), with rustls's reason behind it.
//!
//! **Keys** go into the `Authorization` header and nowhere else. Over plain http to another machine the log warns, once. No redirect is
//! followed: the key would go along.
//!
//! **Reverse proxies** between you and the model have their own mind about streams:
//!
//! | it | then |
//! | --- | --- |
//! | holds events back until its buffer is full (nginx: `proxy_buffering`) | tokens come in bursts; switch it off there. No compression is asked for, because compressing proxies do the same |
//! | closes a connection that is silent for 60 s | [`Incomplete`](crate::ErrorKind::Incomplete) before the first token, which is sent again; set its read timeout as long as the queue |
//! | closes idle connections early | a request that meets a closed one is sent anew at once, see [`max_stale_retries`](crate::RetryPolicy::max_stale_retries) |
//! | answers with a page | [`NotEventStream`](crate::ErrorKind::NotEventStream), with its beginning |
//! | drops fields it does not know | [`Inexact::Dropped`](crate::Inexact::Dropped) |
