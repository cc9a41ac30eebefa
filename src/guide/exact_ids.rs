//! When the ids are all there, and what to do when they are not.
//!
//! A server generates ids and sends text. To ask it to go on, to train on what it sampled, or to keep its prefix cache warm, the ids are
//! needed, and encoding the text again gives others: the page `docs/drift.md` shows how soon. So every id here is
//! the server's own. None is guessed, and at the end [`StreamReport::ids_exact`](crate::StreamReport::ids_exact) says whether
//! they are all there, by comparing their number with the server's count:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, IdsExact, Inexact, SamplingParams};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let server = MockServer::scripted([Script::tokens([(9707, "Hello"), (13, ".")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! match guard.join().ids_exact {
//!     IdsExact::Yes => {}
//!     IdsExact::No(Inexact::NoIds) => panic!("this server gives none"),
//!     IdsExact::No(why) => panic!("{why}"),
//!     // `Unknown`: no count came, or the stream broke off.
//!     _ => panic!("nobody can tell"),
//! }
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! | server | ids |
//! | --- | --- |
//! | vLLM, all endpoints | all, the end token too (`return_token_ids`) |
//! | SGLang `/generate` | all |
//! | llama.cpp `/completion` | all but those inside characters of several tokens: [`LostInCharacter`](crate::Inexact::LostInCharacter) says how many. [`complete`](crate::ApiClient::complete), the answer that comes whole, has all |
//! | llama.cpp `/v1/completions`, `/v1/chat/completions` | as above; in chats the end token's is missing too |
//! | OpenAI, Azure, Ollama, LM Studio | none |
//!
//! The page [`servers`](crate::servers) has every server and endpoint, and how each cell is known. A router or proxy may drop ids,
//! or the field that asks for them: [`Dropped`](crate::Inexact::Dropped).
//!
//! Text and id do not go in step. The tokens of one character carry their ids first and the text with the last; a stop token has an id
//! and no text. So collect ids and text apart, or have [`ResponseParser`](crate::ResponseParser) do it: each leaf of its tree has the ids it
//! came from.
//!
//! # The next prompt
//!
//! [`Context`](crate::Context) makes it of the ids received: the prompt before, the answer's ids, and what was added, encoded. What it does
//! with a turn whose ids did not all come is yours to say ([`WhenInexact`](crate::WhenInexact)), and each prompt says whether it
//! begins with the one before ([`Prefix`](crate::Prefix)).
