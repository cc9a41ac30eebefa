//! Guides: one page for each question, with complete programs.
//!
//! | you want to | read |
//! | --- | --- |
//! | cancel a stream, or find out what a drop does | [`cancel`] |
//! | set timeouts | [`timeouts`] |
//! | limit memory use | [`limits`] |
//! | handle errors, or keep failed requests | [`errors`] |
//! | retry failed requests | [`retries`] |
//! | resume a broken stream | [`resume`] |
//! | use several servers, or hedge slow requests | [`failover`] |
//! | keep exact token ids | [`exact_ids`] |
//! | find out which server gives token ids | [`servers_with_ids`] |
//! | use OpenAI, OpenRouter or another hosted API | [`hosted_apis`] |
//! | run tools that the model calls | [`tool_calls`] |
//! | run many streams at once | [`many_streams`] |
//! | use a router in front of your servers | [`routers`] |
//! | log and trace requests | [`logging`] |
//! | use a proxy or a private certificate authority | [`proxies_and_tls`] |
//! | port a program | [`from_openai_python`], [`from_async_openai`] |
#![cfg_attr(
    feature = "testing",
    doc = "| test your program without a model server | [`testing_your_program`] |"
)]
#![cfg_attr(
    not(feature = "testing"),
    doc = "| test your program without a model server | `testing_your_program`, feature `testing` |"
)]
//!
//! The programs on these pages are also tests. They run against the scripted server of the feature
//! `testing`. The lines that start this server are hidden.

pub mod cancel;
pub mod errors;
pub mod exact_ids;
pub mod failover;
pub mod from_async_openai;
pub mod from_openai_python;
pub mod hosted_apis;
pub mod limits;
pub mod logging;
pub mod many_streams;
pub mod proxies_and_tls;
pub mod resume;
pub mod retries;
pub mod routers;
pub mod servers_with_ids;
#[cfg(feature = "testing")]
pub mod testing_your_program;
pub mod timeouts;
pub mod tool_calls;
