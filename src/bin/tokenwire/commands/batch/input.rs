//! The input of a batch: reads the prompts line by line and makes requests from them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenwire::{CompletionRequest, Message, Special, TokenId, Tokenizer};

use crate::exit::Failure;
use crate::flags::StreamFlags;

/// The maximum length of a line, in bytes. A prompt of ten million ids fits.
const MAX_LINE_BYTES: usize = 64 << 20;

/// One line of the input that is not blank: a prompt or an invalid line.
#[derive(Debug)]
pub(crate) struct Item {
    /// The position among the prompts, from 0. Blank lines do not count.
    pub(crate) at: u64,
    /// The number of the line in the input, from 1.
    pub(crate) line: u64,
    /// The id in the line, or the number of the line.
    pub(crate) id: Value,
    /// The contents of the line, or the reason why it is invalid.
    pub(crate) asked: Result<Asked, String>,
}

/// The contents of a valid line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    prompt: Option<PromptJson>,
    #[serde(default)]
    messages: Option<Vec<Value>>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    extra: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "invalid prompt: expected a text or a list of token ids")]
enum PromptJson {
    Text(String),
    Ids(Vec<TokenId>),
}

/// A reader of the input. It holds at most one line in memory.
pub(crate) struct Items {
    input: Box<dyn BufRead + Send>,
    line: u64,
    at: u64,
}

impl Items {
    /// Opens a file, or standard input if `path` is `None`.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let input: Box<dyn BufRead + Send> = match path {
            Some(path) => Box::new(BufReader::new(File::open(path).map_err(|error| {
                Failure::Usage(format!("cannot read the input {:?}: {error}", path.display().to_string()))
            })?)),
            None => Box::new(BufReader::new(io::stdin())),
        };
        Ok(Self { input, line: 0, at: 0 })
    }

    /// Returns how many prompts have been read so far.
    pub(crate) fn count(&self) -> u64 {
        self.at
    }

    /// Reads the next prompt; returns `None` at the end of the input.
    pub(crate) fn next(&mut self) -> io::Result<Option<Item>> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if (&mut self.input).take(limit).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let is_too_long = bytes.len() > MAX_LINE_BYTES && bytes.last() != Some(&b'\n');
            if is_too_long {
                self.input.skip_until(b'\n')?;
            } else if bytes.trim_ascii().is_empty() {
                continue;
            }
            let asked = match is_too_long {
                true => Err(format!("the line has more than {MAX_LINE_BYTES} bytes")),
                false => Asked::from_json(&bytes),
            };
            let id = asked.as_ref().ok().and_then(|asked| asked.id.clone());
            let item = Item { at: self.at, line: self.line, id: id.unwrap_or(self.line.into()), asked };
            self.at += 1;
            return Ok(Some(item));
        }
    }
}

impl Asked {
    fn from_json(line: &[u8]) -> Result<Self, String> {
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err("expected a JSON object".to_owned());
        }
        // The parser always reports line 1, so the message keeps only the column.
        let told = |error: serde_json::Error| error.to_string().replace(" at line 1 column", " at column");
        let asked: Self = serde_json::from_slice(line.trim_ascii_end()).map_err(told)?;
        if asked.id.as_ref().is_some_and(|id| !id.is_string() && !id.is_number()) {
            return Err("invalid id: expected a text or a number".to_owned());
        }
        match (&asked.prompt, &asked.messages) {
            (None, None) => Err("expected a prompt or messages, found neither".to_owned()),
            (Some(_), Some(_)) => Err("expected a prompt or messages, found both".to_owned()),
            (_, Some(messages)) if messages.is_empty() => {
                Err("invalid messages: the list is empty".to_owned())
            }
            _ => Ok(asked),
        }
    }

    /// Returns the request for this line. Values in the line replace the values of the flags.
    pub(crate) fn request(
        self,
        flags: &StreamFlags,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<CompletionRequest, Failure> {
        let Self { id: _, prompt, messages, max_tokens, temperature, extra } = self;
        let request = match (prompt, tokenizer) {
            (Some(PromptJson::Text(text)), Some(tokenizer)) => {
                CompletionRequest::ids(tokenizer.encode(&text, Special::TEMPLATE)?)
            }
            (Some(PromptJson::Text(text)), None) => CompletionRequest::text(text),
            (Some(PromptJson::Ids(ids)), _) => CompletionRequest::ids(ids),
            // A placeholder: the field `messages`, set below, replaces it with the line's messages.
            (None, _) => CompletionRequest::messages([Message::user("")]),
        };
        let mut sampling = flags.sampling();
        sampling.max_tokens = max_tokens.or(sampling.max_tokens);
        sampling.temperature = temperature.or(sampling.temperature);
        let mut request = flags.apply_to(request)?.sampling(sampling);
        if let Some(messages) = messages {
            request = request.extra("messages", messages);
        }
        Ok(request.extras(extra))
    }
}

/// Returns the number of prompts in a file: its lines that are not blank.
pub(crate) fn count(path: &Path) -> io::Result<u64> {
    let (mut count, mut is_blank) = (0, true);
    for byte in BufReader::new(File::open(path)?).bytes() {
        match byte? {
            b'\n' => {
                count += u64::from(!is_blank);
                is_blank = true;
            }
            byte => is_blank &= byte.is_ascii_whitespace(),
        }
    }
    Ok(count + u64::from(!is_blank))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(input: &'static str) -> Vec<Item> {
        let mut items = Items { input: Box::new(input.as_bytes()), line: 0, at: 0 };
        std::iter::from_fn(|| items.next().unwrap()).collect()
    }

    #[test]
    fn each_line_is_a_prompt_with_an_id_or_an_error() {
        // Each row contains the line, its id, and a part of the reason.
        let cases = [
            (r#"{"prompt":"a"}"#, "1", None),
            (
                r#"{"id":"x","prompt":[1,2],"max_tokens":3,"temperature":0.5,"extra":{"seed":1}}"#,
                "\"x\"",
                None,
            ),
            (r#"{"id":7,"messages":[{"role":"user","content":"a"}]}"#, "7", None),
            ("{\"prompt\":\"a\"}\r", "1", None),
            (r#"{"prompt":"a""#, "1", Some("EOF while parsing an object at column 13")),
            ("{\"prompt\":\"a\n", "1", Some("EOF while parsing a string at column 12")),
            (r#"["x","a"]"#, "1", Some("expected a JSON object")),
            ("\u{1}", "1", Some("expected a JSON object")),
            (r#"{"id":"x"}"#, "1", Some("found neither")),
            (r#"{"prompt":"a","messages":[]}"#, "1", Some("both")),
            (r#"{"messages":[]}"#, "1", Some("empty")),
            (r#"{"id":[1],"prompt":"a"}"#, "1", Some("invalid id")),
            (r#"{"prompt":-1}"#, "1", Some("list of token ids")),
            (r#"{"prompt":"a","max_token":3}"#, "1", Some("unknown field `max_token`")),
        ];
        for (line, id, reason) in cases {
            let item = items(line).pop().unwrap();
            assert_eq!(item.id.to_string(), id, "{line}");
            match (reason, item.asked) {
                (None, asked) => assert!(asked.is_ok(), "{line}: {asked:?}"),
                (Some(reason), Err(told)) => assert!(told.contains(reason), "{line}: {told}"),
                (Some(_), Ok(_)) => panic!("{line}"),
            }
        }
    }

    #[test]
    fn blank_lines_count_as_lines_but_not_as_prompts() {
        let input = "\n{\"prompt\":\"a\"}\n \n\r\n{\"prompt\":\"b\"}";
        let places: Vec<_> = items(input).iter().map(|item| (item.at, item.line, item.id.clone())).collect();
        assert_eq!(places, [(0, 2, 2.into()), (1, 5, 5.into())]);
        let path = std::env::temp_dir().join(format!("tokenwire-count-{}", std::process::id()));
        std::fs::write(&path, input).unwrap();
        assert_eq!(count(&path).unwrap(), 2);
        std::fs::remove_file(path).unwrap();
    }
}
