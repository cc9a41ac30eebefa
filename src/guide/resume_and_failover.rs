//! What happens when the server dies in the middle of an answer.
//!
//! Prompt and ids received are all that is needed to go on. A client that was told to sends both, asks for as many tokens less, and puts
//! what comes into the same channel: no id is lost, none comes twice. The response parser does not notice.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, SamplingParams};
//! # use tokenwire::testing::{Cut, Model, ServerKind};
//! # let model = Model::new(2).ends_one_of(0);
//! # let first = MockServer::start(move |request| model.answer(request).cut_at(1500, Cut::Reset))?;
//! # let second = MockServer::start(move |request| model.answer(request))?;
//! # let (first, second) = (first.url(), second.url());
//!
//! let client = ApiClient::builder(first).base_url(second).resumes(3).build()?;
//! let params = SamplingParams::default().temperature(0.0).max_tokens(30);
//! let (_tokens, guard) = client.stream_completion(&[785, 6722], params, None)?;
//! let report = guard.join();
//! assert_eq!((report.tokens, report.resumes.len(), report.failovers), (30, 1, 1));
//! println!("broke at id {}, went on after {:?}", report.resumes[0].at_id, report.resumes[0].took);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # What may be resumed
//!
//! Ends that are the server's: the connection ended or went silent, a fault inside the stream. Not what a cancel, the deadline or the
//! request itself ended. And only what stays exact; the rest ends as before, and
//! [`StreamReport::not_resumed`](crate::StreamReport::not_resumed) has the reason ([`NotResumable`](crate::NotResumable)):
//! a prompt of text or messages, ids that are not all known, several choices, a grammar or a schema, penalties. Some of these
//! can be accepted ([`allow_inexact_resume`](crate::CompletionRequest::allow_inexact_resume)).
//!
//! With temperature 0 the resumed ids equal those of an unbroken stream as far as the server computes the same for a token in its prompt
//! and for one of its own: a real model differs now and then in the last bits. With sampling they are a valid continuation, not
//! the same draw.
//!
//! # Several servers
//!
//! [`base_url`](crate::ApiClientBuilder::base_url), once more for each, all with the same model. A stream that fails at one goes to
//! another at once: before its first token as a retry, after it as a resume. In order by default;
//! [`Balance::Weighted`](crate::Balance::Weighted) shares streams out, and keeps each
//! [`session`](crate::CompletionRequest::session) at its server, which has its prefix in the cache. One that fails three times in a row
//! is left out until a probe finds it well ([`RoutePolicy`](crate::RoutePolicy)).
//!
//! # Hedging
//!
//! The slowest first tokens can be cut short: [`RoutePolicy::hedge_after`](crate::RoutePolicy::hedge_after) sends the request a second time,
//! to another server if there is one, when no token has come for that long. The one with the first token goes on, the other is cancelled, and
//! [`StreamReport::hedged`](crate::StreamReport::hedged) tells. Each costs a prompt, so take a time that few requests pass.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::time::Duration;
//! use tokenwire::{ApiClient, RoutePolicy, SamplingParams};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let first = MockServer::scripted([Script::new().hang(Duration::from_secs(60))])?;
//! # let second = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
//! # let (first, second) = (first.url(), second.url());
//!
//! let mut routes = RoutePolicy::default();
//! routes.hedge_after = Some(Duration::from_millis(50));
//! let client = ApiClient::builder(first).base_url(second).routes(routes).build()?;
//! let (_tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! let report = guard.join();
//! assert_eq!((report.hedged, report.route), (true, 1));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # The budget
//!
//! Retries and resumes of all streams come out of one budget, ten by default. A server that dies breaks all its streams at once: for all
//! to go on, [`RetryPolicy::budget`](crate::RetryPolicy::budget) has to be as large as they are many.
