//! How a command ends: its exit code, or the failure that stopped it.

use std::{fmt, io};

use tokenwire::{Error, ErrorKind};

use crate::output::text::with_causes;

/// In the help of every command, and in the man page.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 complete, 1 failed, 2 usage, 130 cancelled (Ctrl-C).";

/// How a command that has said everything ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Complete = 0,
    Failed = 1,
    Cancelled = 130,
}

/// What stops a command short.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the user gave cannot be used; nothing was sent.
    Usage(String),
    /// Standard input or output failed, or the machine did.
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
