//! Use OpenAI, OpenRouter and other hosted APIs.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, Message, SamplingParams, ServerKind};
//! # use tokenwire::testing::{MockServer, Script};
//! # let chunk = r#"{"choices":[{"index":0,"delta":{"content":"Hi!"}}]}"#;
//! # let server = MockServer::scripted([Script::events([chunk, "[DONE]"])])?;
//! # let (url, key) = (server.url(), "sk-0123456789");
//!
//! let openai = ServerKind::from_json(
//!     r#"{
//!         "name": "openai",
//!         "about": "OpenAI's chat endpoint, which refuses fields that it does not define.",
//!         "renames": {"max_tokens": "max_completion_tokens"}
//!     }"#,
//! )?;
//! let client = ApiClient::builder(url) // https://api.openai.com/v1
//!     .server(openai)
//!     .api_key(key)
//!     .model("MODEL")
//!     .build()?;
//! let request = CompletionRequest::messages([Message::user("Say hello.")])
//!     .sampling(SamplingParams::default().max_tokens(1_000));
//! let (tokens, _guard) = client.stream(request)?;
//! for token in &tokens {
//!     println!("{token:?}");
//! }
//! # let body = server.requests()[0].json();
//! # let mut fields: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
//! # fields.sort();
//! # let plain = ["max_completion_tokens", "messages", "model", "stream", "stream_options"];
//! # assert_eq!(fields, plain);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! OpenRouter accepts all fields, so you do not need a server record for OpenRouter:
//!
//! ```no_run
//! use tokenwire::ApiClient;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = std::env::var("OPENROUTER_API_KEY")?;
//! let client = ApiClient::builder("https://openrouter.ai/api/v1")
//!     .api_key(key)
//!     .model("MODEL")
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Why you need a server record
//!
//! tokenwire does not recognise hosted APIs yet. It adds these fields to a request for an unknown
//! server:
//!
//! | field | sent when the server is unknown | purpose |
//! | --- | --- | --- |
//! | `stream_options` | in streams | requests the server's token count |
//! | `skip_special_tokens` | always | keeps special tokens, such as call markers, in the text of vLLM |
//! | `return_token_ids` | always | requests token ids from vLLM |
//! | `verbose` | on `/v1/completions`, and for [`complete`](crate::ApiClient::complete) | requests token ids from llama.cpp |
//! | `return_tokens` | for `complete` | requests token ids from llama.cpp |
//!
//! OpenAI, Azure, Groq, Cerebras, Mistral and Gemini refuse unknown fields, with status 400 or 422.
//! Fireworks refuses most unknown fields. At NVIDIA, the accepted fields depend on the model.
//!
//! A server record, such as the JSON text in the first example, describes a server. If the record
//! has no key `like`, a request contains only plain OpenAI fields:
//!
//! - `model`, and `messages` or `prompt`
//! - `stream` and `stream_options`
//! - `max_tokens`, with the default 16,384
//! - the fields that you set
//!
//! | key of a record | effect | example |
//! | --- | --- | --- |
//! | `renames` | renames a field, or leaves out a field that tokenwire adds | `"renames": {"stream_options": null}` |
//! | `sets` | adds a field to every request | `"sets": {"return_token_ids": true}` |
//!
//! An extra field with the value null does not remove a field. tokenwire sends the field with the
//! value `null`. Servers that check the fields of a request also refuse such a field.
//!
//! The command line cannot read a server record yet. Use the library for APIs that refuse unknown
//! fields.
//!
//! # Settings for each API
//!
//! These facts come from SDKs, documentation and public issues of November 2026. tokenwire has not
//! been tested with any of these APIs.
//!
//! | API | base URL | keys of the record, besides `name` and `about` |
//! | --- | --- | --- |
//! | OpenAI | `https://api.openai.com/v1` | reasoning and GPT-5 models: `"renames": {"max_tokens": "max_completion_tokens"}` |
//! | Azure OpenAI | `https://RESOURCE.openai.azure.com/openai/v1` | the same key as for OpenAI; some older deployments need `max_tokens`. The model is the name of the deployment. |
//! | OpenRouter | `https://openrouter.ai/api/v1` | no record needed |
//! | Groq | `https://api.groq.com/openai/v1` | none; Groq has no `/completions` |
//! | Cerebras | `https://api.cerebras.ai/v1` | none |
//! | Gemini | `https://generativelanguage.googleapis.com/v1beta/openai` | none; it is not known whether Gemini accepts `stream_options` |
//! | Mistral | `https://api.mistral.ai/v1` | `"renames": {"stream_options": null}` |
//! | Fireworks | `https://api.fireworks.ai/inference/v1` | `"sets": {"return_token_ids": true}, "gives_ids": true` |
//! | NVIDIA | `https://integrate.api.nvidia.com/v1` | none; the accepted fields depend on the model |
//! | Together | `https://api.together.ai/v1` | none; it is not known whether Together refuses unknown fields |
//!
//! Azure's older URLs need the query `?api-version=`. tokenwire refuses a base URL with a query, so
//! use the `/openai/v1` URL.
//!
//! tokenwire adds `/v1` to a base URL without a path. This may not work for Perplexity, which
//! documents a URL without `/v1`.
//!
//! # Requests
//!
//! - Use messages. [`CompletionRequest::text`](crate::CompletionRequest::text) uses
//!   `/v1/completions`, which many hosted APIs do not have. With
//!   [`Endpoint::Chat`](crate::Endpoint::Chat), text becomes one user message.
//! - Set `max_tokens`. A model with a smaller limit may refuse the default of 16,384.
//! - Set only the sampling parameters that the API defines. tokenwire sends every parameter that
//!   you set.
//! - Pass other fields with [`extra`](crate::CompletionRequest::extra), for example
//!   `.extra("reasoning_effort", "low")`.
//! - Pass a schema with `.extra("response_format", ..)`. If the server record has no key `like`,
//!   tokenwire rejects [`structured_output`](crate::CompletionRequest::structured_output).
//! - Read the API key in your program. tokenwire does not read `OPENAI_API_KEY`.
//!
//! # Answers
//!
//! | you may see | reason |
//! | --- | --- |
//! | [`Inexact::NoIds`](crate::Inexact::NoIds) | Only Fireworks and Together send ids that tokenwire reads. Cerebras sends ids in a field that tokenwire does not read. |
//! | [`NotResumable::Endpoint`](crate::NotResumable::Endpoint) | tokenwire cannot resume a chat. |
//! | [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) | Mistral sends reasoning as a list, which tokenwire does not read yet. The stream ends. |
//! | missing reasoning | MiniMax can send reasoning only in `reasoning_details`, which tokenwire does not read. |
//! | status 429, retried twice | OpenAI, xAI, Z.AI and Gemini also use 429 when your credit is used up. [`Error::server_error`](crate::Error::server_error) contains the code, for example `insufficient_quota`. |
//! | status 400 or 403 for a wrong key | xAI and Gemini use 400. NVIDIA uses 403. |
//!
//! Reasoning in `reasoning_content` or `reasoning` arrives as
//! [`StreamToken::Reasoning`](crate::StreamToken::Reasoning).
