//! The locks, threads and channels that the threads of this crate use, from std and crossbeam.
//!
//! Tests that are built with `--cfg shuttle` use the types of [shuttle](https://docs.rs/shuttle)
//! instead. Shuttle runs a test many times, each time with another order of the threads' steps.
//! These tests are in the modules named `shuttle`:
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --lib --no-default-features --target-dir target/shuttle shuttle::
//! ```
//!
//! The tests model these parts of the crate: pool, slot, queue, guard and reader. Only these parts
//! use the locks of this module. Other code may use a std lock if it calls none of these parts
//! while it holds the lock. Shuttle treats all atomics as `SeqCst`.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool},
    thread,
};

#[cfg(not(all(test, shuttle)))]
pub(crate) use crossbeam_channel as channel;

#[cfg(test)]
#[cfg(shuttle)]
pub(crate) mod shuttle;
#[cfg(test)]
#[cfg(shuttle)]
pub(crate) use {
    self::shuttle::{Condvar, channel},
    ::shuttle::{
        sync::{Mutex, MutexGuard, atomic::AtomicBool},
        thread,
    },
};
