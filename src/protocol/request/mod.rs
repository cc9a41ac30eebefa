//! A request: prompt, sampling parameters and extra fields, checked and written as JSON.
//!
//! Each file imports only from earlier files in this order: headers, message, sampling; completion
//! (the request); structured, resume; refuse (unsupported features); body (the JSON).

mod body;
pub(crate) mod completion;
pub(crate) mod headers;
pub(crate) mod message;
mod refuse;
mod resume;
pub(crate) mod sampling;
mod structured;
#[cfg(test)]
mod tests;
