//! The models of a server.

use serde_json::Value;

use super::ApiClient;
use super::backend::head::status_error;
use super::http::Method;
use super::http::headers::sensitive_headers;
use super::http::response::HttpResponse;
use super::http::slot::Wait;
use crate::error::Error;
use crate::error::secrets::Secrets;
use crate::protocol::chunk::server_error::server_error_from_body;

/// A model that a server has, see [`ApiClient::models`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The name to ask for it by. As it came: escape it before printing.
    pub id: String,
    /// The server's word for whose it is; many put their own name there. As it came.
    pub owned_by: Option<String>,
    /// The most tokens of prompt and answer together, where the server says so: vLLM's and SGLang's `max_model_len`, llama.cpp's
    /// `n_ctx` (of one slot), OpenRouter's `context_length`.
    pub max_context_tokens: Option<u32>,
}

impl ApiClient {
    /// The models that the server lists, by `GET /v1/models`, in its order. Blocks for one exchange, as long as
    /// [`first_token`](crate::Timeouts::first_token) and [`deadline`](crate::Timeouts::deadline) allow; it is not retried. The body is at most
    /// [`max_body_bytes`](crate::Limits::max_body_bytes).
    ///
    /// # Errors
    ///
    /// `Connect`, `Refused`, `Timeout`, `Incomplete`, `Limit`; `ServerKind` for a status other than 2xx; `Protocol` for an answer that is
    /// no list of models.
    pub fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let wait = self.wait_for_answer();
        let response = self.ask(Method::GET, ("/models", false), &[], wait)?;
        let list = self.json_answer(response, wait)?;
        match &list["data"] {
            Value::Array(models) => Ok(models.iter().filter_map(model).collect()),
            // An Ollama without models.
            Value::Null if list["object"] == "list" => Ok(Vec::new()),
            _ => Err(Error::protocol("the answer is no list of models")),
        }
    }
}

fn model(entry: &Value) -> Option<ModelInfo> {
    let places = [
        &entry["max_model_len"],
        &entry["meta"]["n_ctx"],
        &entry["max_context_length"],
        &entry["context_length"],
    ];
    Some(ModelInfo {
        id: entry["id"].as_str()?.to_owned(),
        owned_by: entry["owned_by"].as_str().map(str::to_owned),
        max_context_tokens: places.iter().find_map(|count| count.as_u64()?.try_into().ok()),
    })
}

impl ApiClient {
    /// What bounds the wait for an answer that comes whole: the nearer of the timers that run up to a first token.
    pub(super) fn wait_for_answer(&self) -> Option<Wait> {
        let (timer, limit) = self.0.timeouts.before_first_token()?;
        Some(Wait::since(std::time::Instant::now(), limit, timer))
    }

    /// The JSON of an answer with a good status.
    pub(super) fn json_answer(&self, mut response: HttpResponse, wait: Option<Wait>) -> Result<Value, Error> {
        let secrets = Secrets::of(sensitive_headers(&self.0.headers));
        if response.status() / 100 != 2 {
            return Err(status_error(&mut response, &secrets));
        }
        let body = response.whole_within(wait)?;
        match serde_json::from_slice::<Value>(&body) {
            Ok(value) if value.get("error").is_none_or(Value::is_null) => Ok(value),
            // An error under a good status.
            Ok(_) => Err(Error::server(server_error_from_body(None, None, &body)).redacted(&secrets)),
            Err(error) => {
                let said = server_error_from_body(None, response.header("content-type"), &body);
                let message = format!("the answer is no JSON: {}", said.message);
                Err(Error::protocol(message).with_source(error).redacted(&secrets))
            }
        }
    }
}
