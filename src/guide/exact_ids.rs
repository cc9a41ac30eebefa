//! Keep exact token ids.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, IdsExact, Inexact, SamplingParams, StreamToken};
//! # use tokenwire::testing::{MockServer, Script};
//! # let server = MockServer::scripted([Script::tokens([(9707, "Hello"), (13, ".")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! let mut ids = Vec::new();
//! for token in &tokens {
//!     if let StreamToken::Token { id: Some(id), .. } = token {
//!         ids.push(id);
//!     }
//! }
//! match guard.join().ids_exact {
//!     IdsExact::Yes => println!("these are all ids: {ids:?}"),
//!     IdsExact::No(Inexact::NoIds) => println!("this server sends no ids"),
//!     IdsExact::No(reason) => println!("ids are missing: {reason}"),
//!     // `Unknown`: the server sent no count, or the stream broke.
//!     _ => println!("not known"),
//! }
//! # assert_eq!(ids, [9707, 13]);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! You need the ids to continue an answer, to train on the sampled tokens, and to use the server's
//! prefix cache. Encoding the text again often produces different ids. The page `docs/drift.md` in
//! the repository shows how early the ids of a conversation differ.
//!
//! Every id in this crate comes from the server. tokenwire never guesses an id: a token with an
//! unknown id has `id: None`. At the end, tokenwire compares the number of ids with the server's
//! own count. [`StreamReport::ids_exact`](crate::StreamReport::ids_exact) holds the result.
//!
//! | value | meaning |
//! | --- | --- |
//! | `Yes` | All ids arrived. |
//! | `No(reason)` | Ids are missing. [`Inexact`](crate::Inexact) lists the possible reasons. |
//! | `Unknown` | The server sent no count, or the stream broke. |
//!
//! [`servers_with_ids`](super::servers_with_ids) lists the servers that send ids. A router or a
//! proxy can remove the ids, or remove the request field that asks for ids. The reason is then
//! [`Inexact::Dropped`](crate::Inexact::Dropped).
//!
//! # Text and ids
//!
//! Do not pair each id with the text of the same item:
//!
//! - Several tokens can form one character. The last of these tokens carries the text. The other
//!   tokens carry only their ids.
//! - A stop token has an id and no text.
//!
//! Collect ids and text separately, or use [`ResponseParser`](crate::ResponseParser): each leaf of
//! its tree holds the ids of its text.
//!
//! # The next prompt
//!
//! [`Context`](crate::Context) builds the next prompt from ids. The prompt consists of the previous
//! prompt, the ids of the answer, and the encoded new turns.
//!
//! - [`WhenInexact`](crate::WhenInexact) sets how a turn with missing ids is handled.
//! - [`Prefix`](crate::Prefix) reports whether a prompt begins with the previous prompt.
