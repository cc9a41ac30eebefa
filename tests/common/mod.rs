//! What several test programs use.
#![allow(dead_code, unreachable_pub)] // Each of them uses a part, and is a crate of its own.

pub mod chunk_property;
pub mod wire;
