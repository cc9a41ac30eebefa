//! What [`ApiClient`](crate::ApiClient) and its streams share: where requests go, with which headers, and what is known of
//! the server.

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
use crate::config::{ApiKey, Limits, Timeouts};
use crate::error::Error;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;

/// What the streams and calls of a client have in common: the servers, and everything that is set for them.
pub(crate) struct Backend {
    pub(crate) http: HttpClient,
    pub(crate) pool: ReaderPool,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) retry: RetryPolicy,
    pub(crate) retry_budget: Budget,
    pub(crate) resume: ResumePolicy,
    pub(crate) key: Option<ApiKey>,
    /// Where failed requests are saved.
    pub(crate) failed: Option<Folder>,
    pub(crate) endpoint: Endpoint,
    pub(crate) bases: Vec<BaseUrl>,
    pub(crate) routes: Routes,
    pub(crate) model: Option<String>,
    pub(crate) headers: HeaderMap,
    /// The headers in which the key of a session is sent.
    pub(crate) session_headers: Vec<String>,
    pub(crate) priority_header: Option<String>,
    pub(crate) request_ids: Option<RequestIds>,
    /// The kind of server, as the caller set it or as its answers have shown it.
    pub(crate) server: Mutex<Option<ServerKind>>,
    /// The server was probed for its kind.
    pub(crate) probed: AtomicBool,
}

impl Backend {
    pub(crate) fn server(&self) -> Option<ServerKind> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the kind of server that an answer has shown. A kind that is known already stays: the caller may have set it.
    pub(crate) fn learn(&self, server: ServerKind) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(server);
    }

    /// Gives the request its id, and moves into headers what this client sends there. Returns them as names and values.
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
        // A header that the request names itself wins.
        headers.extend(own);
        (request, headers)
    }

    /// The body of `request`, for what is known of the server.
    pub(crate) fn body(
        &self,
        request: &CompletionRequest,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        request.to_json(self.model.as_deref(), self.endpoint, server)
    }

    pub(crate) fn call_body(
        &self,
        request: &CompletionRequest,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        request.to_call_json(self.model.as_deref(), self.endpoint, server)
    }

    /// The client's headers with the request's own, which win.
    pub(crate) fn headers(&self, own: &[(String, String)]) -> Result<HeaderMap, Error> {
        let mut map = self.headers.clone();
        for (name, value) in own {
            let (name, value) = header(name, value)?;
            map.insert(name, value);
        }
        Ok(map)
    }
}
