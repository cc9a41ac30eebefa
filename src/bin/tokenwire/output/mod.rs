//! Everything that the program prints or draws.

pub(crate) mod follow;
pub(crate) mod json;
pub(crate) mod plot;
pub(crate) mod status;
pub(crate) mod terminal;
pub(crate) mod text;
pub(crate) mod trace;
