//! What is sent again, where a stream goes, and how a broken stream continues.

pub(crate) mod resume;
pub(crate) mod retry;
pub(crate) mod route;
