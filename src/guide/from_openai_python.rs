//! What to write in place of openai-python.
//!
//! | openai-python | here |
//! | --- | --- |
//! | `client = OpenAI(base_url=url, api_key=key)` | `ApiClient::builder(url).api_key(key).build()?` |
//! | `client.chat.completions.create(messages=.., stream=True)` | `client.stream(CompletionRequest::messages(..))?` |
//! | `client.completions.create(prompt=ids, stream=True)` | `client.stream(CompletionRequest::ids(ids))?` |
//! | `stream=False` | `client.complete(request)?` |
//! | `for chunk in stream:` | `for token in &tokens` |
//! | `chunk.choices[0].delta.content or ""` | `StreamToken::Token { text, .. }` |
//! | `delta.reasoning_content` | `StreamToken::Reasoning { text, .. }` |
//! | `delta.tool_calls[i]`, put together by index | `StreamToken::ToolCall(call)`, whole |
//! | `chunk.choices[0].finish_reason` | `StreamToken::Done { finish, .. }` |
//! | `stream_options={"include_usage": True}` | always asked for; `Done`'s `usage` |
//! | `extra_body={"return_token_ids": True}` | always asked for; `id` of each token |
//! | `extra_body={..}`, `extra_headers={..}` | `.extra(key, value)`, `.header(name, value)` |
//! | `stream.close()` | `guard.cancel()`, or dropping the guard |
//! | `timeout=httpx.Timeout(..)` | [`Timeouts`](crate::Timeouts), by what is waited for |
//! | `max_retries=2` | `.retries(2)`, with a budget for the whole client |
//! | `except openai.RateLimitError` | `error.status() == Some(429)` |
//! | `except openai.APITimeoutError`, `APIConnectionError` | `error.is_timeout()`, `error.is_connect()` |
//! | `client.models.list()` | `client.models()?` |
//!
//! A chat, streamed:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, Message, SamplingParams, StreamToken};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let chunk = r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi!"},"finish_reason":"stop"}]}"#;
//! # let server = MockServer::scripted([Script::events([chunk, "[DONE]"])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).model("my-model").build()?;
//! let messages = [Message::system("Be brief."), Message::user("Say hello.")];
//! let request = CompletionRequest::messages(messages).sampling(SamplingParams::default().temperature(0.2));
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
//! What is different:
//!
//! - A stream that breaks off is an error in the channel. There, `for chunk in stream` may just end.
//! - What a server would ignore without a word is refused before it is sent, if the server is known;
//!   [`allow_ignored_fields`](crate::CompletionRequest::allow_ignored_fields) sends it.
//! - An answer has 16,384 tokens at most unless [`max_tokens`](crate::SamplingParams::max_tokens) says otherwise; a server whose
//!   context is smaller may refuse the request for it.
//! - Keys and proxies are not taken from the environment.
//! - One choice per stream is what tokens belong to; `n` and `best_of` are for [`ChunkDecoder`](crate::ChunkDecoder) by hand.
