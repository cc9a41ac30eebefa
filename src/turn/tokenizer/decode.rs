//! Ids to text, one at a time.
//!
//! The `tokenizers` crate has a `DecodeStream`. It is not used: it decodes a growing list of ids again and
//! again while their text is empty or ends in U+FFFD (quadratic over skipped tokens, and over bytes that are
//! no UTF-8), leaves out ids that are not in the vocabulary without a word, fails on valid ids when a run of
//! byte tokens turns out not to be UTF-8, and has no end: a text that ends in a real U+FFFD loses it.

use std::fmt;

use tokenizers::Decoder;

use super::{Inner, Tokenizer, contain};
use crate::error::{Error, ErrorKind};
use crate::types::ids::TokenId;

/// Ids to text, one id at a time, from [`Tokenizer::decode_stream`].
///
/// Text appears as soon as it is whole UTF-8. What the pushes and [`finish`](Self::finish) return, joined, is
/// what [`Tokenizer::decode`] returns. At most three bytes are held back. The cost of a push depends on its
/// own token and the one before, not on how much came earlier.
pub struct TokenDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The last token that was not left out: many decoders treat the first token of a text in another way.
    before: Option<String>,
    /// The beginning of a character, at most three bytes between pushes.
    unfinished: Vec<u8>,
    /// What the last push returned.
    text: String,
}

impl TokenDecoder {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, before: None, unfinished: Vec::new(), text: String::new() }
    }

    /// Takes one id and returns the text that became readable with it; empty inside a character.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the vocabulary has no such id, or if the tokenizer cannot
    /// decode it; [`Unsupported`](ErrorKind::Unsupported) if its decoder cannot work token by token (none
    /// known in a chat model). The decoder is then as it was before, and can go on.
    pub fn push(&mut self, id: TokenId) -> Result<&str, Error> {
        self.text.clear();
        let inner = &*self.tokenizer.0;
        let token = inner
            .tokenizer
            .id_to_token(id)
            .ok_or_else(|| Error::invalid(format!("id {id} is not in the tokenizer's vocabulary")))?;
        if self.skip_special && inner.added(id).is_some_and(|token| token.special) {
            return Ok("");
        }
        inner.append_bytes(self.before.as_deref(), &token, &mut self.unfinished)?;
        self.before = Some(token);
        move_text(&mut self.unfinished, &mut self.text);
        Ok(&self.text)
    }

    /// The rest: empty, or U+FFFD if the ids end inside a character.
    #[must_use]
    pub fn finish(self) -> &'static str {
        if self.unfinished.is_empty() { "" } else { "\u{fffd}" }
    }
}

impl fmt::Debug for TokenDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenDecoder")
            .field("skip_special", &self.skip_special)
            .field("unfinished", &self.unfinished)
            .finish_non_exhaustive()
    }
}

/// How tokens become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoding {
    /// Each character of a token's name stands for one byte (GPT-2, Llama 3, Qwen, ...).
    ByteLevel,
    /// By the file's decoder, on this token and the one before it.
    Pieces {
        /// Tokens named like `<0xE4>` are bytes (Llama 2, Gemma, ...).
        byte_tokens: bool,
    },
    /// Not to be done token by token.
    Unsupported,
}

impl Decoding {
    /// From the `decoder` of a tokenizer.json.
    pub(super) fn of(decoder: &serde_json::Value) -> Self {
        let steps = match decoder["decoders"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(decoder),
        };
        let has = |name| steps.iter().any(|step| step["type"] == name);
        // The end of a text is not known while it grows. (The crate's code also panics on an empty token.)
        let strips_end = steps.iter().any(|step| step["type"] == "Strip" && step["stop"] != 0);
        match (has("ByteLevel"), steps.len()) {
            (true, 1) => Self::ByteLevel,
            (true, _) => Self::Unsupported,
            _ if strips_end || has("Sequence") => Self::Unsupported,
            _ => Self::Pieces { byte_tokens: has("ByteFallback") },
        }
    }
}

impl Inner {
    /// The bytes that `token` adds to a text in which `before` was the last token (`None`: it begins here).
    fn append_bytes(&self, before: Option<&str>, token: &str, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let byte_tokens = match self.decoding {
            Decoding::ByteLevel => {
                match token.chars().map(byte_level).collect::<Option<Vec<u8>>>() {
                    Some(spelled) => bytes.extend(spelled),
                    // An added token is named by its text.
                    None => bytes.extend(token.bytes()),
                }
                return Ok(());
            }
            Decoding::Pieces { byte_tokens } => byte_tokens,
            Decoding::Unsupported => {
                let message = "this tokenizer's decoder cannot work token by token";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        // ASCII at the beginning goes through the file's decoder, which may remove a space there.
        let byte = byte_token(token).filter(|byte| byte_tokens && (before.is_some() || !byte.is_ascii()));
        match (byte, before) {
            (Some(byte), _) => bytes.push(byte),
            (None, None) => bytes.extend(self.decode_few(&[token])?.bytes()),
            (None, Some(before)) => {
                let without = self.decode_few(&[before])?;
                let with = self.decode_few(&[before, token])?;
                // All known decoders only add; for one that does not, the token by itself is the nearest.
                match with.strip_prefix(without.as_str()) {
                    Some(more) => bytes.extend(more.bytes()),
                    None => bytes.extend(self.decode_few(&[token])?.bytes()),
                }
            }
        }
        Ok(())
    }

    /// By the file's decoder. Never called without a token: one of the crate's decoders panics then.
    fn decode_few(&self, tokens: &[&str]) -> Result<String, Error> {
        let Some(decoder) = self.tokenizer.get_decoder() else {
            return Ok(tokens.join(" "));
        };
        contain(|| {
            decoder
                .decode(tokens.iter().map(ToString::to_string).collect())
                .map_err(|e| Error::invalid("the tokenizer cannot decode the ids").with_source(e))
        })
    }
}

/// Moves everything but the beginning of a character, with U+FFFD for what is no UTF-8. By the same rule as
/// `String::from_utf8_lossy`, so that cuts do not matter.
fn move_text(bytes: &mut Vec<u8>, text: &mut String) {
    let mut at = 0;
    while let Err(e) = std::str::from_utf8(&bytes[at..]) {
        let valid = at + e.valid_up_to();
        text.push_str(&String::from_utf8_lossy(&bytes[at..valid]));
        at = valid;
        let Some(bad) = e.error_len() else {
            // The bytes end inside a character.
            bytes.drain(..at);
            return;
        };
        text.push('\u{fffd}');
        at += bad;
    }
    text.push_str(&String::from_utf8_lossy(&bytes[at..]));
    bytes.clear();
}

/// The byte for which a character stands in the names of a byte-level vocabulary: printable Latin-1 stands
/// for itself, the other 68 bytes, in order, are U+0100 to U+0143 (`bytes_to_unicode` in GPT-2's encoder.py).
fn byte_level(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte of a token named like `<0xE4>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_table_is_that_of_the_crate() {
        let names = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = names.into_iter().filter_map(byte_level).collect();
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..=255));
        assert_eq!(
            ["Ġ", "Ċ", "ł", "\u{143}"].map(|s| s.chars().next().and_then(byte_level)),
            [Some(b' '), Some(b'\n'), Some(0xa0), Some(0xad)]
        );
    }

    #[test]
    fn bytes_become_the_same_text_at_every_cut() {
        let cases: [&[u8]; 9] = [
            b"",
            b"plain",
            "é你😀".as_bytes(),
            b"\xff",
            b"a\xf0\x9f\x98",
            b"\xf0\x9f\x98x",
            b"\xe4\xe4\xbd\xa0\xbd",
            b"\xed\xa0\x80\xc0\xaf",
            b"\xef\xbf\xbd\xf4\x90\x80\x80!",
        ];
        for case in cases {
            for first in 0..=case.len() {
                for second in first..=case.len() {
                    let (mut bytes, mut text) = (Vec::new(), String::new());
                    for part in [&case[..first], &case[first..second], &case[second..]] {
                        bytes.extend(part);
                        move_text(&mut bytes, &mut text);
                        assert!(bytes.len() <= 3);
                    }
                    text.push_str(if bytes.is_empty() { "" } else { "\u{fffd}" });
                    assert_eq!(text, String::from_utf8_lossy(case), "{case:?} cut at {first}, {second}");
                }
            }
        }
    }

    /// A tokenizer with words of its own and one of the decoders.
    fn with(decoder: &str, words: &[&str]) -> Tokenizer {
        let vocab: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("{word:?}:{i}")).collect();
        let (vocab, unknown) = (vocab.join(","), words[0]);
        let model = format!(r#"{{"type":"WordLevel","unk_token":"{unknown}","vocab":{{{vocab}}}}}"#);
        let json = format!(r#"{{"version":"1.0","decoder":{decoder},"model":{model}}}"#);
        Tokenizer::from_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn every_kind_of_decoder_gives_the_text_that_the_crate_gives() {
        let replace = r#"{"type":"Replace","pattern":{"String":"▁"},"content":" "}"#;
        let strip = r#"{"type":"Strip","content":" ","start":1,"stop":0}"#;
        let bytes = r#"{"type":"ByteFallback"},{"type":"Fuse"}"#;
        let llama2 = format!(r#"{{"type":"Sequence","decoders":[{replace},{bytes},{strip}]}}"#);
        let gemma = format!(r#"{{"type":"Sequence","decoders":[{replace},{bytes}]}}"#);
        let decoders = [
            "null",
            r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#,
            r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":true}"#,
            r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###,
            r#"{"type":"BPEDecoder","suffix":"</w>"}"#,
            r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#,
            &llama2,
            &gemma,
        ];
        let words =
            ["▁", "▁the", "cat", "##s", "n't", ".", "é", "a</w>", "<0x20>", "<0x41>", "<0xC3>", "<0xA9>"];
        for decoder in decoders {
            let tokenizer = with(decoder, &words);
            let count = u32::try_from(words.len()).unwrap();
            for number in 0..count.pow(4) {
                let ids: Vec<u32> = (0..4).map(|place| number / count.pow(place) % count).collect();
                // A byte that is no UTF-8 makes the crate spoil all byte tokens beside it; not so here.
                let spoiled = |pair: &[u32]| (pair[0] == 10) != (pair[1] == 11);
                let padded: Vec<u32> = [0].iter().chain(&ids).chain(&[0]).copied().collect();
                if decoder.contains("ByteFallback") && padded.windows(2).any(spoiled) {
                    continue;
                }
                let crates = tokenizer.0.tokenizer.decode(&ids, false).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), crates, "{decoder} {ids:?}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_spoil_nothing_beside_them() {
        let tokenizer = with(r#"{"type":"ByteFallback"}"#, &["x", "<0xC3>", "<0xA9>"]);
        assert_eq!(tokenizer.decode(&[1, 2, 1, 0, 1, 2], false).unwrap(), "é\u{fffd}xé");
    }

    #[test]
    fn a_decoder_that_needs_the_end_is_refused() {
        for decoder in [
            r#"{"type":"Strip","content":" ","start":0,"stop":1}"#,
            r#"{"type":"Sequence","decoders":[{"type":"ByteLevel","add_prefix_space":false,
                "trim_offsets":true},{"type":"Fuse"}]}"#,
        ] {
            let tokenizer = with(decoder, &[""]);
            assert_eq!(tokenizer.decode(&[0], false).unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
