//! Chooses the server for a request, and probes servers that are skipped after several failures.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::Backend;
use crate::client::http::client::Outgoing;
use crate::client::http::slot::{CancelSlot, Wait};
use crate::client::http::{Method, Uri};
use crate::client::policy::retry::random;
use crate::client::policy::route::Choice;
use crate::error::{Error, Timer};

impl Backend {
    /// Returns the URL of a path at each server; see [`Endpoint::path`](crate::Endpoint::path).
    pub(crate) fn urls(&self, (path, at_root): (&str, bool)) -> Result<Vec<Uri>, Error> {
        self.bases.iter().map(|base| base.join(path, at_root)).collect()
    }

    /// Returns the URL of a path at the first server that works.
    pub(crate) fn url(&self, (path, at_root): (&str, bool)) -> Result<Uri, Error> {
        let base = self.bases.get(self.routes.first());
        base.ok_or_else(|| Error::invalid("the client has no server"))?.join(path, at_root)
    }

    /// Chooses the server for a stream that has already failed at the servers in `tried`.
    ///
    /// If another server is due for a probe, a new thread (`tokenwire-probe`) probes it.
    pub(crate) fn route(self: &Arc<Self>, session: Option<&str>, tried: &[usize]) -> usize {
        let Choice { route, probe } = self.routes.choose(session, tried, random(), Instant::now());
        if let Some(route) = probe {
            let probe = Probe { backend: self.clone(), route, is_alive: false };
            // If no thread can be started, the probe is dropped here and counts as failed.
            let _ = thread::Builder::new().name("tokenwire-probe".into()).spawn(move || probe.make());
        }
        route
    }

    /// Sends a health request, and returns true if the server responds with a status below 500.
    ///
    /// A 4xx status also shows that the server is alive, because not every server has the health
    /// path.
    fn is_alive(&self, route: usize) -> bool {
        let url = self.bases.get(route).and_then(|base| base.join("/health", true).ok());
        let Some(url) = &url else { return false };
        let headers = self.headers.clone();
        let outgoing = Outgoing { method: Method::GET, url, headers, body: &[], max_stale_retries: 1 };
        let wait = Wait::since(Instant::now(), self.routes.policy().probe_timeout, Timer::Response);
        let answer = self.http.send(outgoing, &CancelSlot::new(), Some(wait));
        match &answer {
            Ok(answer) => log::debug!("server {route} was probed: status {}", answer.status()),
            Err(error) => log::debug!("server {route} was probed: {}", error.kind().as_str()),
        }
        answer.is_ok_and(|answer| answer.status() < 500)
    }
}

/// A running probe, which reports its result when it is dropped.
///
/// The next probe can therefore always start, even if a log sink panics and ends this probe. A
/// probe that did not finish counts as failed.
struct Probe {
    backend: Arc<Backend>,
    route: usize,
    is_alive: bool,
}

impl Probe {
    fn make(mut self) {
        self.is_alive = self.backend.is_alive(self.route);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.backend.routes.probed(self.route, self.is_alive, Instant::now());
    }
}
