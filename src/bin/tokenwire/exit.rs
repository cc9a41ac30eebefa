//! How a command ends: with an exit code, or with the failure that stopped it.

use std::{fmt, io};

use tokenwire::{Error, ErrorKind};

use crate::output::text::with_causes;

/// The last line of every help text; also in the man page.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 complete, 1 failed, 2 usage, 130 cancelled (Ctrl-C).";

/// The exit code of a command that printed all its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Complete = 0,
    Failed = 1,
    Cancelled = 130,
}

/// A failure that stops a command before it has printed everything.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments or the input are invalid. The exit code is 2.
    Usage(String),
    /// Input, output or the operating system failed.
    Machine(String),
    /// Standard output failed.
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Machine(message) => f.write_str(message),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = with_causes(&error);
        if error.kind() == ErrorKind::InvalidInput { Self::Usage(message) } else { Self::Machine(message) }
    }
}

pub(crate) type ExitResult = Result<Exit, Failure>;
