//! Plain values that every later folder speaks of: ids, tokens, the tree of a turn.

pub(crate) mod ids;
pub(crate) mod not_resumable;
pub(crate) mod token;
pub(crate) mod tree;
