//! The commands: one file or folder for each, and the worker threads of `batch` and `bench`.

pub(crate) mod batch;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod man;
pub(crate) mod models;
pub(crate) mod parse;
pub(crate) mod replay;
pub(crate) mod resend;
pub(crate) mod sse;
pub(crate) mod stream;
pub(crate) mod tokenize;
pub(crate) mod tokens;
mod workers;
