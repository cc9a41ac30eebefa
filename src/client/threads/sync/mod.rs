//! What the threads of this crate meet through: std's locks and threads, crossbeam's channels.
//!
//! In the tests of a build with `--cfg shuttle` they are [shuttle](https://docs.rs/shuttle)'s, which runs a test again
//! and again, each time with another order of the threads' steps. Those tests are the modules named `shuttle`:
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --lib --no-default-features --target-dir target/shuttle shuttle::
//! ```
//!
//! Only what is modelled takes its locks from here: pool, slot, queue, guard and reader. A std lock is right
//! where none of these is called while it is held. Atomics are modelled as if all were `SeqCst`.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool},
    thread,
};

#[cfg(not(all(test, shuttle)))]
pub(crate) use crossbeam_channel as channel;

#[cfg(all(test, shuttle))]
pub(crate) mod shuttle;
#[cfg(all(test, shuttle))]
pub(crate) use {
    self::shuttle::Condvar, self::shuttle::channel, shuttle::sync::Mutex, shuttle::sync::MutexGuard,
    shuttle::sync::atomic::AtomicBool, shuttle::thread,
};
