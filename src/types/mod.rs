//! Plain values that all later folders use: ids, tokens, the tree of a turn.

pub(crate) mod ids;
pub(crate) mod not_resumable;
pub(crate) mod token;
pub(crate) mod tree;
