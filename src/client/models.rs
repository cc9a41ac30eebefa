//! The models that a server lists.

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

/// A model that a server lists; see [`ApiClient::models`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The name to use in requests. It is not escaped: escape it before you print it.
    pub id: String,
    /// The owner that the server names, not escaped. Many servers send their own name.
    pub owned_by: Option<String>,
    /// The maximum number of tokens of prompt and answer together, if the server sends it.
    ///
    /// The value is `max_model_len` from vLLM and SGLang, `n_ctx` (for one slot) from llama.cpp,
    /// `max_context_length` from LM Studio, or `context_length` from OpenRouter.
    pub max_context_tokens: Option<u32>,
}

impl ApiClient {
    /// Returns the models that the server lists, in the server's order.
    ///
    /// Sends `GET /v1/models` once, without retries. Blocks for at most
    /// [`first_token`](crate::Timeouts::first_token) or [`deadline`](crate::Timeouts::deadline),
    /// whichever is shorter. The body may have at most
    /// [`max_body_bytes`](crate::Limits::max_body_bytes) bytes.
    ///
    /// # Errors
    ///
    /// - `Connect`, `Refused`, `Timeout`, `Incomplete` or `Limit`;
    /// - `Server` for a status other than 2xx, or for an error in the body;
    /// - `Protocol` for an answer that is not a list of models.
    pub fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let wait = self.wait_for_answer();
        let response = self.ask(Method::GET, ("/models", false), &[], wait)?;
        let list = self.json_answer(response, wait)?;
        match &list["data"] {
            Value::Array(models) => Ok(models.iter().filter_map(model).collect()),
            // Ollama sends null in place of a list if it has no models.
            Value::Null if list["object"] == "list" => Ok(Vec::new()),
            _ => Err(Error::protocol("the answer is not a list of models")),
        }
    }
    /// Returns the limit of the wait for a whole answer.
    ///
    /// The limit is the timer `first_token` or the deadline, whichever is shorter.
    pub(super) fn wait_for_answer(&self) -> Option<Wait> {
        let (timer, limit) = self.0.timeouts.before_first_token()?;
        Some(Wait::since(std::time::Instant::now(), limit, timer))
    }

    /// Returns the JSON of an answer whose status is 2xx.
    pub(super) fn json_answer(&self, mut response: HttpResponse, wait: Option<Wait>) -> Result<Value, Error> {
        let secrets = Secrets::of(sensitive_headers(&self.0.headers));
        if response.status() / 100 != 2 {
            return Err(status_error(&mut response, &secrets));
        }
        let body = response.whole_within(wait)?;
        match serde_json::from_slice::<Value>(&body) {
            Ok(value) if value.get("error").is_none_or(Value::is_null) => Ok(value),
            // The body reports an error, although the status is good.
            Ok(_) => Err(Error::server(server_error_from_body(None, None, &body)).redacted(&secrets)),
            Err(error) => {
                let said = server_error_from_body(None, response.header("content-type"), &body);
                let message = format!("the answer is not JSON: {}", said.message);
                Err(Error::protocol(message).with_source(error).redacted(&secrets))
            }
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
