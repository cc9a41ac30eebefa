//! Finds out the kind of server with as few requests as possible, and remembers it.
//!
//! ```text
//! GET /v1/models ─┬─ `owned_by` names the server ───────────▶ done
//!                 ├─ `owned_by` is the name of the model ───▶ /info, the path of TGI
//!                 ├─ another owner, or no model ────────────▶ /api/version, the path of Ollama
//!                 └─ no list of models ─────────────────────▶ a special path of each server
//! ```
//!
//! `owned_by` does not name TGI, and it does not name Ollama if the models are not from Ollama's
//! library. llama.cpp also names itself in the header `Server` of every answer.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ApiClient;
use super::backend::head::status_error;
use super::http::Method;
use super::http::client::Outgoing;
use super::http::headers::sensitive_headers;
use super::http::response::HttpResponse;
use super::http::slot::{CancelSlot, Wait};
use crate::config::MAX_STALE_RETRIES;
use crate::error::secrets::Secrets;
use crate::error::{Error, Timer};
use crate::protocol::server::ServerKind;

/// The time that [`ApiClient::server`] waits for all answers together.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A path under the root of the server, and a function that detects the server from the answer.
type Question = (&'static str, fn(&Value) -> Option<ServerKind>);

const TGI: Question = ("/info", |info| {
    let is_router =
        info["router"].as_str().is_some_and(|router| router.starts_with("text-generation-router"));
    // TGI before 2.0 does not name its router. All versions have the setting `max_best_of`.
    (is_router || info.get("max_best_of").is_some()).then_some(ServerKind::Tgi)
});
const OLLAMA: Question = ("/api/version", |answer| {
    let fields = answer.as_object()?;
    // Open WebUI also has this path, but its answer has more fields.
    (fields.len() == 1 && fields["version"].is_string()).then_some(ServerKind::Ollama)
});
const SGLANG: Question = ("/get_model_info", |info| {
    (info["model_path"].is_string() && info["is_generation"].is_boolean()).then_some(ServerKind::SgLang)
});
const LLAMA_CPP: Question =
    ("/props", |props| props.get("default_generation_settings").map(|_| ServerKind::LlamaCpp));
const LM_STUDIO: Question =
    ("/api/v0/models", |models| models["data"][0].get("compatibility_type").map(|_| ServerKind::LmStudio));

impl ApiClient {
    /// Returns the kind of server, or `None` if tokenwire does not know it. Blocks for at most 5 s.
    ///
    /// tokenwire uses the first of these sources that identifies the server:
    ///
    /// 1. the kind that you set on the builder;
    /// 2. the answers so far;
    /// 3. a probe: `GET /v1/models` and, if its answer does not identify the server, one or more
    ///    other paths.
    ///
    /// The client probes the server only once and remembers the result. Streams do not need this
    /// method: a stream asks an unknown server for ids in every known way, and the first answer
    /// identifies the server.
    ///
    /// # Errors
    ///
    /// This method fails only if the first request of the probe fails: there is no connection, no
    /// answer arrives in time, or the status is not 2xx. The statuses 404, 405 and 501 are not
    /// errors, because they mean that the server does not list models. If a later request fails,
    /// the server is not identified.
    pub fn server(&self) -> Result<Option<ServerKind>, Error> {
        let backend = &self.0;
        if backend.server().is_none() && !backend.probed.load(Ordering::Acquire) {
            if let Some(found) = self.probe()? {
                backend.learn(found);
            }
            backend.probed.store(true, Ordering::Release);
        }
        Ok(backend.server())
    }

    fn probe(&self) -> Result<Option<ServerKind>, Error> {
        let wait = Some(Wait::since(Instant::now(), PROBE_TIMEOUT, Timer::Response));
        let mut response = self.ask(Method::GET, ("/models", false), &[], wait)?;
        let questions: &[Question] = match response.status() {
            _ if is_llama_cpp(&response) => return Ok(Some(ServerKind::LlamaCpp)),
            404 | 405 | 501 => &[TGI, SGLANG, OLLAMA, LM_STUDIO, LLAMA_CPP],
            200..=299 => {
                let list = json(&mut response, wait)?;
                match list["data"].as_array() {
                    Some(models) if models.iter().any(is_owned_by_itself) => &[TGI],
                    Some(models) => match models.iter().find_map(owner) {
                        Some(server) => return Ok(Some(server)),
                        None => &[OLLAMA],
                    },
                    // Ollama sends null in place of a list if it has no models.
                    None if list["object"] == "list" => &[OLLAMA],
                    None => &[TGI, SGLANG, OLLAMA, LM_STUDIO, LLAMA_CPP],
                }
            }
            _ => return Err(status_error(&mut response, &Secrets::of(sensitive_headers(&self.0.headers)))),
        };
        let answers = questions.iter().map_while(|(path, tells)| {
            let mut response = self.ask(Method::GET, (path, true), &[], wait).ok()?;
            Some(match response.status() {
                _ if is_llama_cpp(&response) => Some(ServerKind::LlamaCpp),
                200..=299 => json(&mut response, wait).ok().and_then(|answer| tells(&answer)),
                _ => None,
            })
        });
        Ok(answers.flatten().next())
    }

    /// Sends one request with the client's headers. Returns the head of the answer.
    pub(super) fn ask(
        &self,
        method: Method,
        path: (&str, bool),
        body: &[u8],
        wait: Option<Wait>,
    ) -> Result<HttpResponse, Error> {
        let url = self.0.url(path)?;
        log::debug!("{method} {}: {} bytes", url.path(), body.len());
        let headers = self.0.headers.clone();
        let max_stale_retries = self.0.retry.max_stale_retries.min(MAX_STALE_RETRIES);
        let outgoing = Outgoing { method, url: &url, headers, body, max_stale_retries };
        self.0.http.send(outgoing, &CancelSlot::new(), wait)
    }
}

fn is_llama_cpp(response: &HttpResponse) -> bool {
    response.header("server") == Some("llama.cpp")
}

/// Returns the body as JSON, or null if it is not JSON.
fn json(response: &mut HttpResponse, wait: Option<Wait>) -> Result<Value, Error> {
    Ok(serde_json::from_slice(&response.whole_within(wait)?).unwrap_or_default())
}

/// Returns the kind of server that `owned_by` names.
fn owner(model: &Value) -> Option<ServerKind> {
    ServerKind::by_owner(model["owned_by"].as_str()?)
}

/// Returns true if `owned_by` is the name of the model, as with TGI.
fn is_owned_by_itself(model: &Value) -> bool {
    model["id"].is_string() && model["id"] == model["owned_by"]
}
