//! Decodes ids into text, one id at a time.
//!
//! This module does not use the `DecodeStream` of the `tokenizers` crate, which has these problems:
//!
//! - While the text of the ids is empty or ends in U+FFFD, it decodes a growing list of ids again.
//!   The cost is quadratic in the number of skipped tokens and of invalid UTF-8 bytes.
//! - It silently ignores ids that are not in the vocabulary.
//! - It fails on valid ids if a run of byte tokens is not valid UTF-8.
//! - It does not have a method for the end of the text, so a real U+FFFD at the end is lost.

use tokenizers::Decoder;

use super::{Inner, Tokenizer, contain};
use crate::error::macros::debug_fields;
use crate::error::{Error, ErrorKind};
use crate::types::ids::TokenId;

/// A decoder that turns ids into text, one id at a time.
///
/// Create it with [`Tokenizer::decode_stream`].
///
/// The decoder returns text as soon as the text is complete UTF-8. Join the texts from all pushes
/// and from [`finish`](Self::finish) to get the text that [`Tokenizer::decode`] returns. The
/// decoder holds back at most three bytes. The cost of a push depends only on its token and the
/// token before it.
///
/// ```no_run
/// let tokenizer = tokenwire::Tokenizer::from_file("tokenizer.json")?;
/// let mut decoder = tokenizer.decode_stream(true);
/// for id in [785, 6722] {
///     print!("{}", decoder.push(id)?);
/// }
/// println!("{}", decoder.finish());
/// # Ok::<(), tokenwire::Error>(())
/// ```
pub struct TokenDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The last token that was not skipped. Many decoders treat the first token of a text
    /// differently.
    before: Option<String>,
    /// The beginning of an incomplete character. Between pushes, it has at most three bytes.
    unfinished: Vec<u8>,
    /// The text that the last push returned.
    text: String,
}

impl TokenDecoder {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, before: None, unfinished: Vec::new(), text: String::new() }
    }

    /// Decodes one id, and returns the text that the id completes.
    ///
    /// The text is empty if its character is still incomplete.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput) if the vocabulary does not have the id, or if
    ///   the tokenizer cannot decode it.
    /// - [`Unsupported`](ErrorKind::Unsupported) if the tokenizer cannot decode token by token. No
    ///   chat model is known to have such a tokenizer.
    ///
    /// After an error, the decoder is unchanged, and you can continue with it.
    pub fn push(&mut self, id: TokenId) -> Result<&str, Error> {
        self.text.clear();
        let inner = &*self.tokenizer.0;
        let unknown = || Error::invalid(format!("id {id} is not in the tokenizer's vocabulary"));
        let token = inner.tokenizer.id_to_token(id).ok_or_else(unknown)?;
        if self.skip_special && inner.added(id).is_some_and(|token| token.special) {
            return Ok("");
        }
        inner.append_bytes(self.before.as_deref(), &token, &mut self.unfinished)?;
        self.before = Some(token);
        move_text(&mut self.unfinished, &mut self.text);
        Ok(&self.text)
    }

    /// Returns the rest of the text.
    ///
    /// The rest is U+FFFD if the ids end inside a character. Otherwise, it is empty.
    #[must_use]
    pub fn finish(self) -> &'static str {
        if self.unfinished.is_empty() { "" } else { "\u{fffd}" }
    }
}

debug_fields!(TokenDecoder { skip_special, unfinished });

/// The method that converts tokens into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoding {
    /// Each character of a token's name is one byte (GPT-2, Llama 3, Qwen and others).
    ByteLevel,
    /// The decoder that the file defines decodes each token together with the token before it.
    Pieces {
        /// Tokens with names like `<0xE4>` are bytes (Llama 2, Gemma and others).
        byte_tokens: bool,
    },
    /// Decoding token by token is not possible.
    Unsupported,
}

impl Decoding {
    /// Chooses the method from the `decoder` of a tokenizer.json.
    pub(super) fn of(decoder: &serde_json::Value) -> Self {
        let steps = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
        let has = |name| steps.iter().any(|step| step["type"] == name);
        // This step needs the end of the text, which is not known while text still arrives. The
        // code of the `tokenizers` crate also panics on an empty token.
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
    /// Appends the bytes that `token` adds to the text after the token `before`.
    ///
    /// `before` is `None` at the beginning of the text.
    fn append_bytes(&self, before: Option<&str>, token: &str, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let byte_tokens = match self.decoding {
            Decoding::ByteLevel => {
                let spelled = token.chars().map(byte_level).collect::<Option<Vec<u8>>>();
                // The name of an added token is its text.
                bytes.extend(spelled.unwrap_or_else(|| token.into()));
                return Ok(());
            }
            Decoding::Pieces { byte_tokens } => byte_tokens,
            Decoding::Unsupported => {
                let message = "this tokenizer cannot decode token by token";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        // An ASCII byte at the beginning of the text is decoded with the decoder of the file,
        // because this decoder may remove a space.
        let byte = byte_token(token).filter(|byte| byte_tokens && (before.is_some() || !byte.is_ascii()));
        match (byte, before) {
            (Some(byte), _) => bytes.push(byte),
            (None, None) => bytes.extend(self.decode_few(&[token])?.bytes()),
            (None, Some(before)) => {
                let without = self.decode_few(&[before])?;
                let with = self.decode_few(&[before, token])?;
                // In all known decoders, a token only adds text. If a decoder changes earlier text,
                // the text of the token alone is the best estimate.
                match with.strip_prefix(without.as_str()) {
                    Some(more) => bytes.extend(more.bytes()),
                    None => bytes.extend(self.decode_few(&[token])?.bytes()),
                }
            }
        }
        Ok(())
    }

    /// Decodes tokens with the decoder that the file defines.
    ///
    /// `tokens` must not be empty, because one of the crate's decoders panics on an empty list.
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

/// Moves all complete characters to `text`, with U+FFFD for bytes that are not valid UTF-8.
///
/// The function follows the rule of `String::from_utf8_lossy`, so the result does not depend on the
/// boundaries between pushes.
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

/// Returns the byte that a character represents in the token names of a byte-level vocabulary.
///
/// Printable Latin-1 characters represent their own byte. The characters U+0100 to U+0143 represent
/// the other 68 bytes, in order (`bytes_to_unicode` in GPT-2's encoder.py).
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

/// Returns the byte of a token with a name like `<0xE4>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_table_matches_the_crate() {
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
    fn bytes_become_the_same_text_at_every_boundary() {
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

    /// Builds a tokenizer with these words and this decoder.
    fn with(decoder: &str, words: &[&str]) -> Tokenizer {
        let vocab: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("{word:?}:{i}")).collect();
        let (vocab, unknown) = (vocab.join(","), words[0]);
        let model = format!(r#"{{"type":"WordLevel","unk_token":"{unknown}","vocab":{{{vocab}}}}}"#);
        let json = format!(r#"{{"version":"1.0","decoder":{decoder},"model":{model}}}"#);
        Tokenizer::from_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn every_kind_of_decoder_returns_the_same_text_as_the_crate() {
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
                // The `tokenizers` crate loses all byte tokens next to an invalid byte. This
                // decoder keeps these tokens.
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
    fn invalid_utf8_does_not_affect_the_bytes_next_to_it() {
        let tokenizer = with(r#"{"type":"ByteFallback"}"#, &["x", "<0xC3>", "<0xA9>"]);
        assert_eq!(tokenizer.decode(&[1, 2, 1, 0, 1, 2], false).unwrap(), "é\u{fffd}xé");
    }

    #[test]
    fn a_decoder_that_needs_the_end_of_the_text_is_refused() {
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
