//! A latch between a test and a script.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A latch that a test opens once. All clones open together.
///
/// A script waits for the gate with [`Script::wait_for`](super::script::Script::wait_for).
///
/// ```
/// use std::time::Duration;
/// use tokenwire::testing::Gate;
///
/// let gate = Gate::new();
/// assert!(!gate.wait(Duration::ZERO));
/// gate.open();
/// assert!(gate.wait(Duration::ZERO));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Creates a closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the gate permanently, and wakes all threads that wait for it.
    pub fn open(&self) {
        let (open, changed) = &*self.0;
        *open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Blocks until the gate is open or `max` has passed, and returns whether it is open.
    pub fn wait(&self, max: Duration) -> bool {
        let (open, changed) = &*self.0;
        let guard = open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, max, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
