//! The pool of reader threads, the alarms for timers, and the lock types that the models replace.

pub(crate) mod alarm;
pub(crate) mod pool;
pub(crate) mod sync;
