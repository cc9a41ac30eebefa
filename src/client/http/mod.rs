//! HTTP. Only this folder names ureq: it hands out the few types of `http` that other folders need.

pub(crate) mod client;
mod fault;
pub(crate) mod headers;
#[cfg(feature = "testing")]
pub(crate) mod memory;
#[cfg(not(all(test, shuttle)))]
mod resolver;
pub(crate) mod sse_reader;
/// The shuttle tests look no name up.
#[cfg(all(test, shuttle))]
mod resolver {
    pub(super) use crate::client::http::unversioned::resolver::DefaultResolver as CachingResolver;
}
pub(crate) mod response;
pub(crate) mod slot;
pub(crate) mod tap;
pub(crate) mod unversioned;

pub(crate) use ureq::http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue,
};
pub(crate) use ureq::http::{HeaderMap, Method, Uri};
