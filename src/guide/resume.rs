//! Resume a broken stream.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, SamplingParams};
//! # use tokenwire::testing::{Cut, FakeModel, MockServer};
//! # let model = FakeModel::new(2).ends_one_of(0);
//! # let first = MockServer::start(move |request| model.answer(request).cut_at(1500, Cut::Reset))?;
//! # let second = MockServer::start(move |request| model.answer(request))?;
//! # let (first, second) = (first.url(), second.url());
//!
//! let client = ApiClient::builder(first).base_url(second).resumes(3).build()?;
//! let params = SamplingParams::default().temperature(0.0).max_tokens(30);
//! let (_tokens, guard) = client.stream_completion(&[785, 6722], params, None)?;
//!
//! // The first server stops in the middle of the answer.
//! let report = guard.join();
//! assert_eq!((report.tokens, report.resumes.len(), report.failovers), (30, 1, 1));
//! println!("broke at id {}, resumed after {:?}", report.resumes[0].at_id, report.resumes[0].took);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! A stream is resumed only if you allow it with [`resumes`](crate::ApiClientBuilder::resumes) or
//! [`resume`](crate::ApiClientBuilder::resume). The new request contains the prompt plus the ids
//! received so far. tokenwire lowers `max_tokens` by the number received, and delivers the rest
//! through the same channel. No id is lost, and no id arrives twice. The response parser does not
//! notice the resume.
//!
//! The example `cargo run --example resume --features testing` shows a resume.
//!
//! # Which streams can be resumed
//!
//! | reason for the end of the stream | resumed |
//! | --- | --- |
//! | the connection ended or went silent | yes |
//! | the server reported an internal error inside the stream | yes |
//! | you cancelled the stream, the deadline expired, or the request was invalid | no |
//!
//! tokenwire resumes a stream only if the result stays exact. It does not resume a stream with one
//! of these properties:
//!
//! - a prompt of text or messages
//! - a token whose id is not known
//! - several choices
//! - a grammar or a schema
//! - penalties
//!
//! [`NotResumable`](crate::NotResumable) has the full list. A stream that cannot be resumed ends
//! with its error, and [`StreamReport::not_resumed`](crate::StreamReport::not_resumed) holds the
//! reason. You can accept some of these cases with
//! [`allow_inexact_resume`](crate::CompletionRequest::allow_inexact_resume).
//!
//! # Is the answer the same?
//!
//! With temperature 0, the ids equal the ids of an unbroken stream if the server is deterministic.
//! The server must compute the same numbers for a token of the prompt and for a token that it
//! generated. With a real model, these numbers sometimes differ in the last bits.
//!
//! With sampling, the resumed ids are a valid continuation, but they differ from the ids of an
//! unbroken stream.
//!
//! This test cuts streams at random bytes, in four ways, and compares the ids:
//!
//! ```sh
//! RESUME_CUTS=10000 cargo test --all-features --test resume -- --nocapture
//! ```
//!
//! # The budget
//!
//! Retries and resumes of all streams share one budget, ten by default. If a server stops, all its
//! streams break at once. If all these streams must resume, set
//! [`RetryPolicy::budget`](crate::RetryPolicy::budget) to the number of streams.
