//! Threads: the pool of reader threads, the alarm that watches timers, and the locks that the models replace.

pub(crate) mod alarm;
pub(crate) mod pool;
pub(crate) mod sync;
