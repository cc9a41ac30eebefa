//! Port a program from openai-python.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, Message, SamplingParams, StreamToken};
//! # use tokenwire::testing::{MockServer, Script};
//! # let choice = r#"{"index":0,"delta":{"content":"Hi!"},"finish_reason":"stop"}"#;
//! # let chunk = format!(r#"{{"object":"chat.completion.chunk","choices":[{choice}]}}"#);
//! # let server = MockServer::scripted([Script::events([chunk.as_str(), "[DONE]"])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).model("my-model").build()?;
//! let messages = [Message::system("Be brief."), Message::user("Say hello.")];
//! let sampling = SamplingParams::default().temperature(0.2);
//! let request = CompletionRequest::messages(messages).sampling(sampling);
//! let (tokens, _guard) = client.stream(request)?;
//! for token in &tokens {
//!     match token {
//!         StreamToken::Token { text, .. } => print!("{text}"),
//!         StreamToken::Error(error) => return Err(error),
//!         _ => {}
//!     }
//! }
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! | openai-python | tokenwire |
//! | --- | --- |
//! | `client = OpenAI(base_url=url, api_key=key)` | `ApiClient::builder(url).api_key(key).build()?` |
//! | `client.chat.completions.create(messages=.., stream=True)` | `client.stream(CompletionRequest::messages(..))?` |
//! | `client.completions.create(prompt=ids, stream=True)` | `client.stream(CompletionRequest::ids(ids))?` |
//! | `stream=False` | `client.complete(request)?` |
//! | `for chunk in stream:` | `for token in &tokens` |
//! | `chunk.choices[0].delta.content or ""` | `StreamToken::Token { text, .. }` |
//! | `delta.reasoning_content` | `StreamToken::Reasoning { text, .. }` |
//! | `delta.tool_calls[i]`, joined by index | `StreamToken::ToolCall(call)`, complete |
//! | `chunk.choices[0].finish_reason` | `StreamToken::Done { finish, .. }` |
//! | `stream_options={"include_usage": True}` | tokenwire always sends this; read `usage` of `Done` |
//! | `extra_body={"return_token_ids": True}` | tokenwire requests the ids itself; read `id` of each token |
//! | `extra_body={..}`, `extra_headers={..}` | `.extra(key, value)`, `.header(name, value)` |
//! | `stream.close()` | `guard.cancel()`, or drop the guard |
//! | `timeout=httpx.Timeout(..)` | [`Timeouts`](crate::Timeouts), one timer for each kind of wait |
//! | `max_retries=2` | `.retries(2)`, with one budget for the whole client |
//! | `except openai.RateLimitError` | `error.status() == Some(429)` |
//! | `except openai.APITimeoutError`, `APIConnectionError` | `error.is_timeout()`, `error.is_connect()` |
//! | `client.models.list()` | `client.models()?` |
//!
//! # Differences
//!
//! - A broken stream ends with an error in the channel. In openai-python, the loop `for chunk in
//!   stream` may end without an error.
//! - tokenwire refuses a request if it knows that the server ignores one of the fields.
//!   [`allow_ignored_fields`](crate::CompletionRequest::allow_ignored_fields) sends the request
//!   anyway.
//! - [`max_tokens`](crate::SamplingParams::max_tokens) defaults to 16,384. A server with a smaller
//!   context may reject the request; set `max_tokens` then.
//! - tokenwire does not read keys or proxies from the environment.
//! - A stream has one choice. For `n` and `best_of`, use [`ChunkDecoder`](crate::ChunkDecoder)
//!   directly.
//! - OpenAI itself and some other hosted APIs need a server record: see
//!   [`hosted_apis`](super::hosted_apis).
