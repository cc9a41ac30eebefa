//! The pool of reader threads, the alarms for timers, and the locks that shuttle tests replace.

pub(crate) mod alarm;
pub(crate) mod pool;
pub(crate) mod sync;
