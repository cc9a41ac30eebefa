//! Plain values that the other modules use: ids, tokens, and the tree of a turn.

pub(crate) mod ids;
pub(crate) mod not_resumable;
pub(crate) mod token;
pub(crate) mod tree;
