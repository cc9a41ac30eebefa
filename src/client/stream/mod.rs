//! One stream: a reader thread sends the tokens of an answer into a channel; a guard ends it.
//!
//! This folder connects the pure stages with the socket and the clock. The reader thread owns the
//! exchange. The guard owns the right to end the exchange.
//!
//! | file | part |
//! | --- | --- |
//! | [`start`](mod@start) | checks the request and builds it, on the caller's thread |
//! | [`guard`] | the consumer's side: cancel, join, report |
//! | [`shared`] | the state that guard and reader thread share |
//! | [`run`] | the reader thread's side: makes attempts and reports how the last one ended |
//! | [`exchange`] | one attempt: sends a request and receives the head of its answer |
//! | [`read`] | reads the body of an answer into the channel |
//! | [`resume_state`] | what a stream has received, for a later request that resumes it |
//! | [`tally`] | the report while the stream runs, and the clocks |
//! | [`report`] | the report as you receive it |
//! | [`race`] | two requests for one stream |
//! | [`call`] | a request with one whole answer |

pub(crate) mod report;

pub(crate) mod call;
mod exchange;
pub(crate) mod guard;
mod race;
mod read;
mod resume_state;
mod run;
mod shared;
#[cfg(test)]
#[cfg(shuttle)]
mod shuttle;
pub(crate) mod start;
mod tally;
