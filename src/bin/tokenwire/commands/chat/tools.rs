//! The tools of `tokenwire chat`: a clock, a calculator, and a reader for the files of a folder.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;
use tokenwire::{Tool, Tools};

type ToolOutput = Result<String, Box<dyn std::error::Error + Send + Sync>>;

/// The maximum number of bytes that are read from a file.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The maximum nesting of an expression.
const MAX_NESTING: usize = 100;

/// Returns the tools. `read_file` is one of them only if there is a folder.
pub(crate) fn tools(folder: Option<&Path>) -> Result<Tools, std::io::Error> {
    let mut tools = Tools::new()
        .with(Tool::new("now", "The date and time, UTC.", json!({"type": "object", "properties": {}}), |_| Ok(now())))
        .with(Tool::new(
            "calculate",
            "The value of an arithmetic expression: numbers, + - * / ( ).",
            json!({"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}),
            |call| calculate(call.arguments["expression"].as_str().ok_or("missing expression")?),
        ));
    if let Some(folder) = folder {
        let folder = folder.canonicalize()?;
        tools = tools.with(Tool::new(
            "read_file",
            "The beginning of a text file, by its path in the folder.",
            json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
            move |call| read_file(&folder, call.arguments["path"].as_str().ok_or("missing path")?),
        ));
    }
    Ok(tools)
}

fn now() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

/// Reads a file in the folder. A link that leads out of the folder is an error.
fn read_file(folder: &Path, path: &str) -> ToolOutput {
    let unfit = || format!("the folder has no file {path:?}");
    let path: PathBuf = folder.join(path).canonicalize().map_err(|_| unfit())?;
    if !path.starts_with(folder) || !path.is_file() {
        return Err(unfit().into());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn calculate(expression: &str) -> ToolOutput {
    let mut rest = Expression { text: expression.as_bytes(), at: 0, nesting: 0 };
    let value = rest.sum()?;
    match rest.peek() {
        None => Ok(value.to_string()),
        Some(byte) => Err(format!("unexpected {:?} at {}", char::from(byte), rest.at).into()),
    }
}

struct Expression<'a> {
    text: &'a [u8],
    at: usize,
    nesting: usize,
}

impl Expression<'_> {
    /// Returns the next byte that is not a space.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        while let Some(sign @ (b'+' | b'-')) = self.peek() {
            self.at += 1;
            let next = self.product()?;
            value = if sign == b'+' { value + next } else { value - next };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.factor()?;
        while let Some(sign @ (b'*' | b'/')) = self.peek() {
            self.at += 1;
            let next = self.factor()?;
            value = if sign == b'*' { value * next } else { value / next };
        }
        Ok(value)
    }

    fn factor(&mut self) -> Result<f64, String> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(format!("nested deeper than {MAX_NESTING}"));
        }
        let value = match self.peek() {
            Some(b'-') => {
                self.at += 1;
                -self.factor()?
            }
            Some(b'(') => {
                self.at += 1;
                let value = self.sum()?;
                if self.peek() != Some(b')') {
                    return Err(format!("expected ) at {}", self.at));
                }
                self.at += 1;
                value
            }
            _ => self.number()?,
        };
        self.nesting -= 1;
        Ok(value)
    }

    fn number(&mut self) -> Result<f64, String> {
        let rest = &self.text[self.at..];
        let len = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.')).unwrap_or(rest.len());
        let number = std::str::from_utf8(&rest[..len]).unwrap_or_default();
        let value = number.parse().map_err(|_| format!("expected a number at {}", self.at))?;
        self.at += len;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_have_a_value_or_an_error_with_its_place() {
        for (expression, expected) in [
            ("1 + 2 * 3", "7"),
            ("(1+2)*-3", "-9"),
            ("8 / 4 / 2", "1"),
            ("1.5*2", "3"),
            ("1/0", "inf"),
            ("", "expected a number at 0"),
            ("1 +", "expected a number at 3"),
            ("(1", "expected ) at 2"),
            ("2 x", "unexpected 'x' at 2"),
        ] {
            let got = calculate(expression).unwrap_or_else(|error| error.to_string());
            assert_eq!(got, expected, "{expression}");
        }
        assert!(calculate(&"(".repeat(1_000_000)).is_err());
    }

    #[test]
    fn only_files_in_the_folder_are_read() {
        let folder = std::env::temp_dir().join(format!("tokenwire-tools-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("in")).unwrap();
        std::fs::write(folder.join("in/a.txt"), "inside").unwrap();
        std::fs::write(folder.join("b.txt"), "outside").unwrap();
        let inside = folder.join("in").canonicalize().unwrap();
        assert_eq!(read_file(&inside, "a.txt").unwrap(), "inside");
        for path in ["../b.txt", "c.txt", "", ".", "/etc/passwd"] {
            assert!(read_file(&inside, path).is_err(), "{path}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
