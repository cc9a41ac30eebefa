//! One stream: a reader thread sends the tokens of an answer into a channel. A guard can end it.
//!
//! This folder connects the pure stages with the socket and the clock. The reader thread owns the
//! exchange, and the guard can end the exchange.
//!
//! | file | part |
//! | --- | --- |
//! | [`start`](mod@start) | checks the request and builds it, on the caller's thread |
//! | [`guard`] | the consumer's side: cancel, join, report |
//! | [`shared`] | the state that guard and reader thread share |
//! | [`run`] | the reader thread's side: makes attempts and reports how the last one ended |
//! | [`exchange`] | one attempt: sends a request and receives the head of its answer |
//! | [`read`] | reads the body of an answer into the channel |
//! | [`resume_state`] | the ids and the text received so far, which a resume needs |
//! | [`tally`] | the report of a running stream, and the times for its timers |
//! | [`report`] | the report that you receive at the end |
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
