//! Ctrl-C (and a request to terminate): the running stream is cancelled, its last line is still printed.

use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use crate::exit::{Exit, Failure};

/// What Ctrl-C does now.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Cancels what is running.
    running: Option<Box<dyn Fn() + Send>>,
    interrupted: bool,
}

impl Interrupt {
    /// Takes the signals over, once for the program. With no stream running, or the second time, the program
    /// ends at once: the first may have found it blocked in a write to a pipe that nobody reads.
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

    /// From now on Ctrl-C does this.
    pub(crate) fn running(&self, cancel: impl Fn() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).running = Some(Box::new(cancel));
    }

    /// It has ended; whether it was interrupted.
    pub(crate) fn ended(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = None;
        state.interrupted
    }
}

/// For commands that hold nothing: Ctrl-C ends the program with the right code.
pub(crate) fn exit_on_interrupt() -> Result<(), Failure> {
    ctrlc::set_handler(|| process::exit(Exit::Cancelled as i32)).map_err(failed)
}

fn failed(error: ctrlc::Error) -> Failure {
    Failure::Machine(format!("cannot take over Ctrl-C: {error}"))
}
