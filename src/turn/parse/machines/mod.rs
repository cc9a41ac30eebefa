//! Contains the machines that read regions of calls. There is one file for each way to write calls.

pub(crate) mod bare_json;
pub(crate) mod gemma;
pub(crate) mod harmony;
pub(crate) mod headed;
pub(crate) mod invoke;
pub(crate) mod json;
pub(crate) mod pairs;
pub(crate) mod python;
pub(crate) mod tagged;
