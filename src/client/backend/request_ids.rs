//! Generates ids for requests without an id.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::policy::retry::random;
use crate::error::Error;
use crate::protocol::request::completion::CompletionRequest;

/// Generates ids that differ between clients and between requests.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(prefix: String) -> Result<Self, Error> {
        CompletionRequest::text("").request_id(&prefix).validate()?;
        // Two clients with the same prefix must not generate the same ids.
        let drawn = (random() * (1_u64 << 48) as f64) as u64;
        Ok(Self { prefix: format!("{prefix}-{drawn:012x}"), next: AtomicU64::new(0) })
    }

    pub(super) fn next(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
