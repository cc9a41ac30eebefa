//! Guides: one question each, with programs that run.
//!
//! | you want to | read |
//! | --- | --- |
//! | bound every wait; know what is sent again | [`timeouts_and_retries`] |
//! | end a stream from elsewhere; know what a drop does | [`cancel_and_drop`] |
//! | rely on the ids | [`exact_ids`] |
//! | run tools that the model calls | [`tool_calls`] |
//! | have a broken stream go on, or go to another server | [`resume_and_failover`] |
//! | see what happens | [`logging`] |
//! | get out of a company's network | [`proxies_and_tls`] |
//! | use many servers, or many streams | [`scaling_out`] |
//! | move a program over | [`from_openai_python`], [`from_async_openai`] |
#![cfg_attr(feature = "testing", doc = "| test your own program | [`testing_your_program`] |")]
#![cfg_attr(
    not(feature = "testing"),
    doc = "| test your own program | `testing_your_program`, feature `testing` |"
)]
//!
//! The programs here talk to the scripted server of the feature `testing`; where it is started is left out.

pub mod cancel_and_drop;
pub mod exact_ids;
pub mod from_async_openai;
pub mod from_openai_python;
pub mod logging;
pub mod proxies_and_tls;
pub mod resume_and_failover;
pub mod scaling_out;
#[cfg(feature = "testing")]
pub mod testing_your_program;
pub mod timeouts_and_retries;
pub mod tool_calls;
