//! Use a proxy or a private certificate authority.
//!
//! ```
//! use tokenwire::ApiClient;
//!
//! let client = ApiClient::builder("https://models.example/v1")
//!     .api_key("sk-0123456789")
//!     .proxy("http://user:password@proxy.example:3128")
//!     .build()?;
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! For a private certificate authority, pass its certificate:
//!
//! ```no_run
//! use tokenwire::ApiClient;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pem = std::fs::read("company-ca.pem")?;
//! let client = ApiClient::builder("https://models.example/v1").ca_pem(pem).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Proxies
//!
//! [`proxy`](crate::ApiClientBuilder::proxy) accepts `http`, `https`, `socks4`, `socks4a`, `socks5`
//! and `socks5h` URLs.
//!
//! tokenwire does not read proxy settings from the environment. A variable must not change the
//! traffic of a program that contains this library. If you want to use `HTTPS_PROXY`, read this
//! variable in your program.
//!
//! # TLS
//!
//! - tokenwire uses rustls with ring, and trusts Mozilla's list of authorities, which is built in.
//! - [`ca_pem`](crate::ApiClientBuilder::ca_pem) replaces this list with your authorities.
//! - You cannot turn certificate checks off. Client certificates are not supported.
//! - A failed handshake is an [`ErrorKind::Connect`](crate::ErrorKind::Connect). Its `source()`
//!   returns the error of rustls.
//!
//! # Keys
//!
//! The API key is sent only in the `Authorization` header. tokenwire logs one warning if the key
//! goes to another machine over plain http. tokenwire does not follow redirects, because the key
//! would be sent to the new address too.
//!
//! # Reverse proxies
//!
//! A reverse proxy between you and the model can disturb streams:
//!
//! | the proxy | effect and remedy |
//! | --- | --- |
//! | holds events back until its buffer is full (nginx: `proxy_buffering`) | Tokens arrive in bursts. Turn the buffering off in the proxy. Proxies that compress events also delay them, so tokenwire does not request compression. |
//! | closes a connection that is silent for 60 s | The attempt ends as [`Incomplete`](crate::ErrorKind::Incomplete) before the first token and is retried. Set the proxy's read timeout to the longest queue time. |
//! | closes idle connections early | tokenwire sends the request again at once; see [`max_stale_retries`](crate::RetryPolicy::max_stale_retries). |
//! | answers with an HTML page | The stream ends as [`NotEventStream`](crate::ErrorKind::NotEventStream), with the beginning of the page. |
//! | drops fields that it does not define | The ids are missing: [`Inexact::Dropped`](crate::Inexact::Dropped). |
