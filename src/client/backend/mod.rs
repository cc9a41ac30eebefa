//! The state that [`ApiClient`](crate::ApiClient) and its streams share.
//!
//! It contains the servers, the headers, all settings, and the detected kind of server.

pub(crate) mod base_url;
pub(crate) mod head;
pub(crate) mod request_ids;
mod routing;

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use self::base_url::BaseUrl;
use self::request_ids::RequestIds;
use super::http::HeaderMap;
use super::http::client::HttpClient;
use super::http::headers::header;
use super::policy::resume::ResumePolicy;
use super::policy::retry::{Budget, RetryPolicy};
use super::policy::route::Routes;
use super::saved::folder::Folder;
use super::threads::pool::ReaderPool;
use crate::config::{Limits, Timeouts};
use crate::error::Error;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;

/// The servers of a client, and the settings that all its requests share.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) http: HttpClient,
    pub(crate) pool: ReaderPool,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) retry: RetryPolicy,
    pub(crate) retry_budget: Budget,
    pub(crate) resume: ResumePolicy,
    /// The folder for failed requests. `None` if failed requests are not saved.
    pub(crate) failed: Option<Folder>,
    pub(crate) endpoint: Endpoint,
    pub(crate) bases: Vec<BaseUrl>,
    pub(crate) routes: Routes,
    pub(crate) model: Option<String>,
    pub(crate) headers: HeaderMap,
    /// The headers that carry the key of a session.
    pub(crate) session_headers: Vec<String>,
    pub(crate) priority_header: Option<String>,
    pub(crate) request_ids: Option<RequestIds>,
    /// The kind of server, as set by the caller or detected from a response.
    pub(crate) server: Mutex<Option<ServerKind>>,
    /// True if the server was probed for its kind.
    pub(crate) probed: AtomicBool,
}

impl Backend {
    pub(crate) fn server(&self) -> Option<ServerKind> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores the kind of server that was detected from a response.
    ///
    /// If a kind is already stored, it is kept, because the caller may have set it.
    pub(crate) fn learn(&self, server: ServerKind) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(server);
    }

    /// Adds a generated id if needed, and returns the headers of the request as names and values.
    ///
    /// The headers include the session key and the priority if this client sends them as headers.
    /// If the priority is sent as a header, it is removed from the body.
    pub(crate) fn address(
        &self,
        mut request: CompletionRequest,
    ) -> (CompletionRequest, Vec<(String, String)>) {
        if let (None, Some(ids)) = (&request.request_id, &self.request_ids) {
            request = request.request_id(ids.next());
        }
        let session = request
            .session_key()
            .into_iter()
            .flat_map(|key| self.session_headers.iter().map(|name| (name.clone(), key.to_owned())));
        let mut headers: Vec<_> = session.collect();
        if let Some(name) = &self.priority_header {
            headers.extend(request.priority.take().map(|priority| (name.clone(), priority.to_string())));
        }
        let own = request.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        // A header of the request itself is appended last, so it overrides a header of the client.
        headers.extend(own);
        (request, headers)
    }

    /// Returns the body of a streaming request, in the form that this kind of server needs.
    pub(crate) fn body(
        &self,
        request: &CompletionRequest,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        request.to_json(self.model.as_deref(), self.endpoint, server)
    }

    /// Returns the client's headers merged with `own`, the headers of the request.
    ///
    /// If both have a header, the value of the request is used.
    pub(crate) fn headers(&self, own: &[(String, String)]) -> Result<HeaderMap, Error> {
        let mut map = self.headers.clone();
        for (name, value) in own {
            let (name, value) = header(name, value)?;
            map.insert(name, value);
        }
        Ok(map)
    }
}
