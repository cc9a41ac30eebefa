//! HTTP requests and responses.
//!
//! Only this folder uses ureq directly. It re-exports the few types of the crate `http` that other
//! folders need.

pub(crate) mod client;
mod fault;
pub(crate) mod headers;
#[cfg(feature = "testing")]
pub(crate) mod memory;
#[cfg(not(all(test, shuttle)))]
mod resolver;
pub(crate) mod sse_reader;
/// Replaces the resolver in the shuttle tests, which never look up a name.
#[cfg(test)]
#[cfg(shuttle)]
mod resolver {
    pub(super) use crate::client::http::unversioned::resolver::DefaultResolver as CachingResolver;
}
pub(crate) mod response;
pub(crate) mod slot;
pub(crate) mod tap;
pub(crate) mod unversioned;

#[cfg(feature = "testing")]
pub(crate) use ureq::http::StatusCode;
pub(crate) use ureq::http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue,
};
pub(crate) use ureq::http::{HeaderMap, Method, Uri};
