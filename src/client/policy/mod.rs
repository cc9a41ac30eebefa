//! The policies: when to retry, which server to use, and how to resume a broken stream.

pub(crate) mod resume;
pub(crate) mod retry;
pub(crate) mod route;
