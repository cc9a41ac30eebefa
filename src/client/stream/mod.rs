//! One stream: a reader thread makes a request and sends the tokens of its answer into a channel; a guard ends it.
//!
//! The pure stages meet the socket and the clock here. The reader thread owns the exchange; the guard owns the right to
//! end it.
//!
//! | file | part |
//! | --- | --- |
//! | [`start`](mod@start) | checks the request and builds it, on the caller's thread |
//! | [`guard`] | the consumer's side: cancel, join, report |
//! | [`shared`] | the state that guard and reader thread share |
//! | [`run`] | the reader thread's side: makes attempts and reports how the last one ended |
//! | [`exchange`] | one attempt: a request out, the head of its answer in |
//! | [`read`] | reads the body of an answer into the channel |
//! | [`resume_state`] | what a stream has received, from which a later request resumes it |
//! | [`tally`] | the report as it grows, and the clocks |
//! | [`race`] | two requests for one stream |
//! | [`call`] | a request whose answer comes whole |

pub(crate) mod report;

pub(crate) mod call;
mod exchange;
pub(crate) mod guard;
mod race;
mod read;
mod resume_state;
mod run;
mod shared;
#[cfg(all(test, shuttle))]
mod shuttle;
pub(crate) mod start;
mod tally;
