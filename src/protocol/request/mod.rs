//! A request: prompt, sampling parameters and extra fields, checked and written as JSON.
//!
//! The files in the order of their imports: headers, message, sampling; completion (the request);
//! structured, resume; refuse (unsupported features); body (the JSON).

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
