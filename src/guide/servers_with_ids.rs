//! Find out which server gives token ids.
//!
//! Try it with your server. The report names the server and shows whether all ids arrived:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, SamplingParams, ServerKind};
//! # use tokenwire::testing::{MockServer, Script};
//! # let server = MockServer::scripted([Script::tokens([(9707, "Hello"), (13, ".")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let sampling = SamplingParams::default().max_tokens(16);
//! let (_tokens, guard) = client.stream(CompletionRequest::text("Hello").sampling(sampling))?;
//! let report = guard.join();
//! println!("server {:?}, ids {}", report.server, report.ids_exact);
//! # assert_eq!((report.server, report.ids_exact.is_exact()), (Some(ServerKind::Vllm), true));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! tokenwire requests ids from every server that can send ids. The table shows which ids the
//! streams contain:
//!
//! | server | endpoint | ids | source |
//! | --- | --- | --- | --- |
//! | vLLM 0.32.0 | `/v1/completions`, `/v1/chat/completions`, `/inference/v1/generate` | all, the end token included; none in a chat with `"include_reasoning": false` | recorded |
//! | llama.cpp 11549, 10434 | `/v1/completions`, `/completion` | all, except ids inside a character of several tokens | live, recorded |
//! | llama.cpp 11549, 10434 | `/v1/chat/completions` | all, except the end token and ids inside a character of several tokens; none if the request has tools | live, recorded |
//! | vllm-router 0.1.17 | `/v1/completions` | all | live, recorded |
//! | sglang-router 0.3.2 | `/v1/chat/completions` | none | recorded |
//! | SGLang | `/generate` | all, unless the server sends text only | documented |
//! | SGLang | `/v1/completions` | all, in newer versions | documented |
//! | SGLang | `/v1/chat/completions` | none | documented |
//! | TGI | `/generate_stream` | all | documented |
//! | TGI | `/v1/chat/completions` | none | documented |
//! | TensorRT-LLM | `/v1/completions` | none; with `.extra("detokenize", false)`, all ids but no text | documented |
//! | Together | `/v1/completions`, `/v1/chat/completions` | one for each chunk | documented |
//! | Fireworks | `/v1/completions`, `/v1/chat/completions` | all, if the request has `return_token_ids`, which tokenwire sends | documented |
//! | OpenAI, Azure, OpenRouter, Ollama, LM Studio | all | none | documented |
//! | LiteLLM proxy | all | none; the proxy drops the ids | documented |
//!
//! The column *source* contains these words:
//!
//! | word | meaning |
//! | --- | --- |
//! | live | The tests in `.ci/run` use the real program. vllm-router runs in front of scripted workers. |
//! | recorded | The tests use exchanges that were recorded from the real program. |
//! | documented | The tests use streams that were written from the server's documentation or source code. The real server was never used. |
//!
//! The page [`servers`](crate::servers) lists the number of recordings and tests for each entry.
//! The test cases of that page include streams whose request did not ask for ids. That page
//! therefore shows *some* or *none* for a few servers, such as Fireworks. The table above shows
//! *all* for these servers, because it assumes that ids were requested.
//!
//! # All ids from llama.cpp
//!
//! llama.cpp leaves out ids in streams, but it sends all ids in an answer that arrives in one
//! piece. [`ApiClient::complete`](crate::ApiClient::complete) requests such an answer, on all three
//! endpoints. You get no token before the answer is complete.
//!
//! In a chat stream, only llama.cpp's `logprobs` contain ids. tokenwire requests `logprobs` if it
//! knows that the server is llama.cpp. Set
//! [`ApiClientBuilder::server`](crate::ApiClientBuilder::server), or call
//! [`ApiClient::server`](crate::ApiClient::server) first. Otherwise, the first chat stream of a
//! client has no ids.
//!
//! # Ids that you did not get
//!
//! | [`Inexact`](crate::Inexact) | usual reason |
//! | --- | --- |
//! | `NoIds` | The server does not send ids. |
//! | `Dropped` | The server sends ids, but a router or a proxy removed the ids, or removed the request field that asks for ids. |
//! | `LostInCharacter` | llama.cpp left out the ids inside a character, or the end token of a chat. The value contains the number of ids and the number of tokens. |
//! | `TextWithoutId` | Some text arrived without an id, and other text with an id. |
//! | `CountDiffers` | The server counted a different number of tokens. |
