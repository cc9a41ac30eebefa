//! The server's own tokenizer: text to ids and back, in each server's words.

use serde_json::{Value, json};

use super::ApiClient;
use super::http::Method;
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::family::Family;
use crate::types::ids::TokenId;

impl ApiClient {
    /// The ids of `text`, as the server's tokenizer makes them: vLLM, llama.cpp, SGLang and TGI have an endpoint for that.
    /// `add_special`: whether the tokens that the tokenizer puts around every text (a BOS, mostly) are put around this one, as a
    /// prompt of text gets them; for parts of a prompt, and for chat templates, which write them themselves, they must not.
    /// Markers within the text, such as `<|im_end|>`, become their own ids in either case: text that nobody checked can hold
    /// some.
    ///
    /// Blocks for one exchange, as [`models`](Self::models) does, after [`server`](Self::server) if that is not known yet.
    ///
    /// # Errors
    ///
    /// As [`models`](Self::models) and [`server`](Self::server); [`Unsupported`](ErrorKind::Unsupported) for a server that has no
    /// such endpoint or is not known, and for TGI without `add_special`, which it cannot leave out. `Protocol` for an answer
    /// without ids.
    pub fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, Error> {
        let (server, model) = (self.server()?, &self.0.model);
        let family = server.as_ref().and_then(ServerKind::family);
        let mut body = match family {
            Some(Family::Vllm | Family::SgLang) => json!({"prompt": text, "add_special_tokens": add_special}),
            Some(Family::LlamaCpp) => {
                json!({"content": text, "add_special": add_special, "parse_special": true})
            }
            Some(Family::Tgi) if add_special => json!({"inputs": text}),
            Some(Family::Tgi) => {
                let why = "TGI's tokenizer endpoint cannot leave the special tokens out";
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            _ => return Err(has_none(server)),
        };
        if let (Some(Family::Vllm | Family::SgLang), Some(model)) = (family, model) {
            body["model"] = model.as_str().into();
        }
        let answer = self.post_json("/tokenize", &body)?;
        // TGI's answer is the list itself.
        let list = answer.as_array().or_else(|| answer["tokens"].as_array());
        let ids = list.and_then(|list| list.iter().map(token_id).collect());
        ids.ok_or_else(|| Error::protocol("the answer of the server's tokenizer has no list of token ids"))
    }

    /// The text of `ids`, special tokens by their names, as the server's tokenizer makes it: vLLM, llama.cpp and SGLang have an
    /// endpoint for that. What is no whole character becomes U+FFFD, or is refused, as the server has it.
    ///
    /// Blocks as [`tokenize`](Self::tokenize) does.
    ///
    /// # Errors
    ///
    /// As [`tokenize`](Self::tokenize).
    pub fn detokenize(&self, ids: &[TokenId]) -> Result<String, Error> {
        let (server, model) = (self.server()?, &self.0.model);
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
        if let (Some(Family::Vllm | Family::SgLang), Some(model)) = (family, model) {
            body["model"] = model.as_str().into();
        }
        let mut answer = self.post_json("/detokenize", &body)?;
        match answer.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Error::protocol("the answer of the server's tokenizer has no text")),
        }
    }
}

impl ApiClient {
    fn post_json(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let wait = self.wait_for_answer();
        let response = self.ask(Method::POST, (path, true), body.to_string().as_bytes(), wait)?;
        self.json_answer(response, wait)
    }
}

/// A number, or an object with one as its `id`.
fn token_id(token: &Value) -> Option<TokenId> {
    token.as_u64().or_else(|| token["id"].as_u64())?.try_into().ok()
}

fn has_none(server: Option<ServerKind>) -> Error {
    let message = match server {
        Some(server) => format!("{} has no endpoint for its tokenizer", server.name()),
        None => "the server is none whose tokenizer endpoint is known".to_owned(),
    };
    Error::new(ErrorKind::Unsupported, message)
}
