//! The tokenizer of the server: text to ids and back, in the format of each server.

use serde_json::{Value, json};

use super::ApiClient;
use super::http::Method;
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::family::Family;
use crate::types::ids::TokenId;

impl ApiClient {
    /// Tokenizes `text` with the server's tokenizer and returns the ids.
    ///
    /// vLLM, llama.cpp, SGLang and TGI have an endpoint for this.
    ///
    /// With `add_special`, the tokenizer adds the tokens that it puts around every text, usually a
    /// BOS token. Set `add_special` for a whole prompt of text. Do not set it for a part of a
    /// prompt, nor for the output of a chat template, which already contains these tokens.
    ///
    /// Markers in the text, such as `<|im_end|>`, become their own ids in both cases. Unchecked
    /// text can contain such markers.
    ///
    /// This method blocks for one exchange, as [`models`](Self::models) does. If the kind of server
    /// is not known yet, [`server`](Self::server) runs first.
    ///
    /// # Errors
    ///
    /// The same as [`models`](Self::models) and [`server`](Self::server). In addition:
    ///
    /// - [`Unsupported`](ErrorKind::Unsupported) for an unknown server, for a server without such
    ///   an endpoint, and for TGI without `add_special`, because TGI always adds these tokens;
    /// - `Protocol` for an answer without ids.
    pub fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, Error> {
        let server = self.server()?;
        let family = server.as_ref().and_then(ServerKind::family);
        let body = match family {
            Some(Family::Vllm | Family::SgLang) => json!({"prompt": text, "add_special_tokens": add_special}),
            Some(Family::LlamaCpp) => {
                json!({"content": text, "add_special": add_special, "parse_special": true})
            }
            Some(Family::Tgi) if add_special => json!({"inputs": text}),
            Some(Family::Tgi) => {
                let why = "TGI's tokenizer endpoint always adds the special tokens: set add_special";
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            _ => return Err(has_none(server)),
        };
        let answer = self.post_json("/tokenize", family, body)?;
        // TGI sends the list without an object around it.
        let list = answer.as_array().or_else(|| answer["tokens"].as_array());
        let ids = list.and_then(|list| list.iter().map(token_id).collect());
        ids.ok_or_else(|| Error::protocol("the answer of the tokenizer endpoint has no list of token ids"))
    }

    /// Converts `ids` to text with the server's tokenizer. Special tokens appear by name.
    ///
    /// vLLM, llama.cpp and SGLang have an endpoint for this. Bytes that are not a whole character
    /// become U+FFFD, or the server rejects them.
    ///
    /// This method blocks as [`tokenize`](Self::tokenize) does.
    ///
    /// # Errors
    ///
    /// The same as [`tokenize`](Self::tokenize).
    pub fn detokenize(&self, ids: &[TokenId]) -> Result<String, Error> {
        let server = self.server()?;
        let family = server.as_ref().and_then(ServerKind::family);
        let mut body = json!({"tokens": ids});
        let key = match family {
            Some(Family::Vllm) => "prompt",
            Some(Family::LlamaCpp) => "content",
            Some(Family::SgLang) => {
                body["skip_special_tokens"] = false.into();
                "text"
            }
            _ => return Err(has_none(server)),
        };
        let mut answer = self.post_json("/detokenize", family, body)?;
        match answer.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Error::protocol("the answer of the tokenizer endpoint has no text")),
        }
    }

    /// Sends a request to the tokenizer. Adds the name of the model for servers that need it.
    fn post_json(&self, path: &str, family: Option<Family>, mut body: Value) -> Result<Value, Error> {
        if let (Some(Family::Vllm | Family::SgLang), Some(model)) = (family, &self.0.model) {
            body["model"] = model.as_str().into();
        }
        let wait = self.wait_for_answer();
        let response = self.ask(Method::POST, (path, true), body.to_string().as_bytes(), wait)?;
        self.json_answer(response, wait)
    }
}

/// Reads an id from a number, or from the field `id` of an object.
fn token_id(token: &Value) -> Option<TokenId> {
    token.as_u64().or_else(|| token["id"].as_u64())?.try_into().ok()
}

fn has_none(server: Option<ServerKind>) -> Error {
    let message = match server {
        Some(server) => format!("{} has no endpoint for this tokenizer request", server.name()),
        None => "this server has no tokenizer endpoint that tokenwire supports".to_owned(),
    };
    Error::new(ErrorKind::Unsupported, message)
}
