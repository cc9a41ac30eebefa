//! openai-python, in a virtual environment under the package's target folder. It needs python3 and
//! pip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::measure::{Cost, finish};
use crate::server::{self, Pace};

const VERSION: &str = "3.54.0";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/client.py");

pub struct Python {
    program: PathBuf,
}

impl Python {
    /// Returns `None` and prints the reason if python3, pip or the package is not available.
    pub fn find() -> Option<Self> {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(format!("openai-python-{VERSION}"));
        let program = folder.join("bin/python3");
        let done = folder.join("installed");
        let made = done.exists()
            || (succeeds(Command::new("python3").args(["-m", "venv"]).arg(&folder))
                && succeeds(Command::new(&program).args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    &format!("openai=={VERSION}"),
                ]))
                && fs::write(&done, "").is_ok());
        if !made {
            eprintln!(
                "no row for openai-python: python3 with venv and pip, or the package, is not available"
            );
        }
        made.then_some(Self { program })
    }

    pub fn title() -> String {
        format!("openai-python {VERSION}")
    }

    pub fn run(&self, pace: Pace) -> Result<Cost> {
        let mut command = Command::new(&self.program);
        command.arg(SCRIPT);
        finish(command, server::start(pace)?)
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}
