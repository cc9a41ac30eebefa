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
//! Only the modelled parts take their locks from here: pool, slot, queue, guard and reader. A std
//! lock is fine if none of these is called while the lock is held. All atomics are modelled as
//! `SeqCst`.

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
