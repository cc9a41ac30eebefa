//! Which server is spoken to, and what it accepts.

pub(crate) mod quirks;
mod records;
