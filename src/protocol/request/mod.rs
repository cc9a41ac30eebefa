//! What is asked of a server: prompt, sampling parameters and extra fields, checked and turned to JSON.
//!
//! The files in the order of their imports: headers, message, sampling; completion (the request); structured, resume; refuse (what a server
//! would ignore); body (the JSON).

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
