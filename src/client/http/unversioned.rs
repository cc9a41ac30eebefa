//! The parts of ureq that its semver promise does not cover. Only this file names these parts.

pub(crate) use ureq::unversioned::{resolver, transport};
