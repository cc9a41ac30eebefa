//! What the server is: found out by as few requests as it takes, and remembered.
//!
//! ```text
//! GET /v1/models ─┬─ `owned_by` says it (all but TGI, and Ollama where the models are not its library's)
//!                 ├─ `owned_by` is the model's own name ─▶ /info, which is TGI's
//!                 ├─ another owner, or no model ─────────▶ /api/version, which is Ollama's
//!                 └─ no such list ───────────────────────▶ each of the paths that one server alone has
//! ```
//!
//! llama.cpp names itself in the header `ServerKind` of whatever it answers.

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

/// How long [`ApiClient::server`] waits for all the answers it asks for.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Something to ask for by GET, under the server's root, and what an answer shows.
type Question = (&'static str, fn(&Value) -> Option<ServerKind>);

const TGI: Question = ("/info", |info| {
    let is_router =
        info["router"].as_str().is_some_and(|router| router.starts_with("text-generation-router"));
    // Versions before 2.0 did not name it; this setting is in all of them.
    (is_router || info.get("max_best_of").is_some()).then_some(ServerKind::Tgi)
});
const OLLAMA: Question = ("/api/version", |answer| {
    let fields = answer.as_object()?;
    // Open WebUI has the path too, and says more.
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
    /// What the server is: what the builder was told, else what its answers have shown, else what it says when it is asked:
    /// `GET /v1/models`, and, where that does not tell, one or a few more paths. Asked once, then remembered. `None`: none
    /// that this crate treats apart. Blocks for at most 5 s.
    ///
    /// Streams do not need it: an unknown server is asked for ids in every way known, and its first answer tells.
    ///
    /// # Errors
    ///
    /// To the first question: no connection, no answer in time, or a status other than 2xx that does not mean that there is
    /// no such list (404, 405, 501). Failures after that mean that nothing was told.
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
                    // An Ollama without models.
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

    /// One request with the client's headers, and the head of its answer.
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

/// What is no JSON tells nothing.
fn json(response: &mut HttpResponse, wait: Option<Wait>) -> Result<Value, Error> {
    Ok(serde_json::from_slice(&response.whole_within(wait)?).unwrap_or_default())
}

/// Some servers name themselves in `owned_by`.
fn owner(model: &Value) -> Option<ServerKind> {
    ServerKind::by_owner(model["owned_by"].as_str()?)
}

/// As TGI has it.
fn is_owned_by_itself(model: &Value) -> bool {
    model["id"].is_string() && model["id"] == model["owned_by"]
}
