//! Ctrl-C and SIGTERM: the running stream is cancelled, and its last line is still printed.

use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use crate::exit::{Exit, Failure};

/// The action that Ctrl-C performs. Clones share it.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Cancels the running work.
    running: Option<Box<dyn Fn() + Send>>,
    interrupted: bool,
}

impl Interrupt {
    /// Installs the signal handler. Call this once for the program.
    ///
    /// The first signal cancels the running work. On a second signal, the program exits at once,
    /// because it may be blocked in a write to a pipe without a reader. If nothing runs, it exits
    /// on the first signal.
    pub(crate) fn install() -> Result<Self, Failure> {
        let state = Arc::new(Mutex::new(State::default()));
        let of_handler = state.clone();
        ctrlc::set_handler(move || {
            let mut state = of_handler.lock().unwrap_or_else(PoisonError::into_inner);
            match &state.running {
                Some(cancel) if !state.interrupted => cancel(),
                _ => process::exit(Exit::Cancelled as i32),
            }
            state.interrupted = true;
        })
        .map_err(failed)?;
        Ok(Self(state))
    }

    /// Sets the action for the next Ctrl-C.
    pub(crate) fn running(&self, cancel: impl Fn() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).running = Some(Box::new(cancel));
    }

    /// Removes the action. Returns whether a signal has arrived.
    pub(crate) fn ended(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = None;
        state.interrupted
    }
}

/// Makes Ctrl-C end the program with code 130. Commands without a stream to cancel use this.
pub(crate) fn exit_on_interrupt() -> Result<(), Failure> {
    ctrlc::set_handler(|| process::exit(Exit::Cancelled as i32)).map_err(failed)
}

fn failed(error: ctrlc::Error) -> Failure {
    Failure::Machine(format!("cannot install a handler for Ctrl-C: {error}"))
}
