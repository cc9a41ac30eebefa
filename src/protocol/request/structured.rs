//! Chooses the field that each server uses for structured output.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::completion::CompletionRequest;
use crate::protocol::server::family::Family;

impl CompletionRequest {
    /// Returns the name and the value of the server's field, if the server supports this output.
    pub(super) fn structured_for(&self, family: Option<Family>) -> Option<(&'static str, Cow<'_, Value>)> {
        let asked = self.structured_output.as_ref()?;
        let schema = asked.get("json").filter(|schema| schema.is_object());
        let text = |key: &str| asked.get(key).filter(|value| value.is_string());
        let own = |key, value: Value| Some((key, Cow::Owned(value)));
        let format = |value| own("response_format", value);
        match (family?, schema, text("regex"), text("grammar")) {
            (Family::Vllm, ..) => Some(("structured_outputs", Cow::Borrowed(asked))),
            (Family::LlamaCpp, Some(schema), ..) => Some(("json_schema", Cow::Borrowed(schema))),
            (Family::LlamaCpp, .., Some(grammar)) => Some(("grammar", Cow::Borrowed(grammar))),
            (Family::SgLang, Some(schema), ..) => own("json_schema", schema.to_string().into()),
            (Family::SgLang, _, Some(regex), _) => Some(("regex", Cow::Borrowed(regex))),
            (Family::SgLang, .., Some(grammar)) => Some(("ebnf", Cow::Borrowed(grammar))),
            (Family::Tgi, Some(schema), ..) => own("grammar", json!({"type": "json", "value": schema})),
            (Family::Tgi, _, Some(regex), _) => own("grammar", json!({"type": "regex", "value": regex})),
            (Family::TensorRtLlm, Some(schema), ..) => format(json!({"type": "json", "schema": schema})),
            (Family::TensorRtLlm, _, Some(regex), _) => format(json!({"type": "regex", "regex": regex})),
            (Family::TensorRtLlm, .., Some(grammar)) => format(json!({"type": "ebnf", "ebnf": grammar})),
            _ => None,
        }
    }
}
