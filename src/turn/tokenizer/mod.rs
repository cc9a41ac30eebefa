//! Encodes and decodes text with a model's `tokenizer.json`.
//!
//! This is the only module that uses the `tokenizers` crate.

pub(crate) mod decode;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use tokenizers::{
    AddedVocabulary, Encoding, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use self::decode::{Decoding, TokenDecoder};
use super::prompt::Encode;
use crate::error::escape::printable;
use crate::error::{Error, ErrorKind};
use crate::types::ids::TokenId;

/// The maximum size of a `tokenizer.json`: 256 MiB. The largest known files have 35 MB.
pub const MAX_TOKENIZER_FILE_BYTES: u64 = 256 << 20;

/// The maximum length of a name or path in a message, in characters.
const MAX_SHOWN_CHARS: usize = 300;

/// The maximum length of text without a split, in bytes; see [`Inner::check_split`].
const MAX_PIECE_BYTES: usize = 1_000_000;

type ForeignError = Box<dyn std::error::Error + Send + Sync>;

/// A model's tokenizer, loaded from its `tokenizer.json`.
///
/// A clone only increments a reference count, and many threads can use one tokenizer at the same
/// time. The tokenizer ignores the truncation and padding settings of the file: it always encodes
/// the whole text.
///
/// Loading takes time and needs memory of several times the size of the file. Load the file once,
/// and clone the tokenizer. With [`Special::parse`] false, the tokenizer does not build a second
/// copy of the vocabulary. While the tokenizer encodes a text, it needs many times as much memory
/// as the text.
///
/// ```no_run
/// use tokenwire::{Special, Tokenizer};
///
/// let tokenizer = Tokenizer::from_file("tokenizer.json")?;
/// let ids = tokenizer.encode("The capital of France is", Special::PROMPT)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "The capital of France is");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// The added tokens, sorted by id.
    added: Vec<AddedToken>,
    /// The added vocabulary for text in which no marker may become a token.
    ///
    /// It contains the same tokens as the ordinary added vocabulary. It does not recognize a token
    /// if [`AddedToken::is_structure`] is true. The switch for this behaviour
    /// (`set_encode_special_tokens`) belongs to the added vocabulary, so a second tokenizer is not
    /// necessary.
    plain: AddedVocabulary,
    /// The token for unknown text, if the model has such a token.
    unknown: Option<TokenId>,
    decoding: Decoding,
}

/// A token outside the ordinary vocabulary, for example the markers `<|im_end|>` and `<tool_call>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddedToken {
    /// The id of the token.
    pub id: TokenId,
    /// The text of the token, as it is spelled in a prompt.
    pub text: String,
    /// True if the file marks the token as special, so that decoding can skip it.
    ///
    /// Many markers are not special, for example Qwen3's `<think>` and `<tool_call>`.
    pub special: bool,
}

/// Converts to the form that [`ResponseParser::markers`](crate::ResponseParser::markers) accepts.
impl<'a> From<&'a AddedToken> for (&'a str, TokenId) {
    fn from(token: &'a AddedToken) -> Self {
        (&token.text, token.id)
    }
}

impl AddedToken {
    /// Returns whether the token can be a marker.
    ///
    /// The other added tokens are runs of white space. GPT-NeoX and Gemma have such tokens. In
    /// Gemma, `▁` is a space. Ordinary text needs these tokens, and they are harmless.
    fn is_structure(&self) -> bool {
        self.special || !self.text.chars().all(|c| c.is_whitespace() || c == '▁')
    }
}

/// Selects how encoding treats tokens that are not ordinary text.
///
/// The two fields are independent. `/tokenize` of llama-server has the same settings, named
/// `parse_special` and `add_special`.
///
/// | text | constant |
/// | --- | --- |
/// | text from outside: a user's words, the result of a tool | [`TEXT`](Self::TEXT) (the default) |
/// | a piece of a chat template with spelled markers | [`TEMPLATE`](Self::TEMPLATE) |
/// | a whole prompt, as servers encode a prompt that is text | [`PROMPT`](Self::PROMPT) |
///
/// # Examples
///
/// ```no_run
/// use tokenwire::{Special, Tokenizer};
///
/// let tokenizer = Tokenizer::from_file("tokenizer.json")?;
/// let marker = tokenizer.special_id("<|im_end|>")?;
/// assert_eq!(tokenizer.encode("<|im_end|>", Special::TEMPLATE)?, [marker]);
/// assert!(!tokenizer.encode("<|im_end|>", Special::TEXT)?.contains(&marker));
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Special {
    /// If true, an added token that is spelled in the text becomes a token. Default false.
    ///
    /// The default protects you from a tool result that contains `<|im_end|>`. With `false`, text
    /// becomes an added token only if this token is a run of white space. This rule also applies to
    /// added tokens that the file does not mark as special.
    ///
    /// This is stricter than `parse_special` in llama-server and `split_special_tokens` in
    /// transformers. Both settings still convert a spelled `<tool_call>` if the file does not mark
    /// it as special (Qwen3). If the file marks all added tokens as special (SmolLM2), the ids are
    /// equal.
    pub parse: bool,
    /// If true, adds the tokens that the file's post-processor defines. Default false.
    ///
    /// Some models define a token for the beginning of each text (Llama, Gemma), and some define a
    /// token for the end. Many models define no such token (Qwen, SmolLM2).
    pub add: bool,
}

impl Special {
    /// The settings for plain text: spelled tokens stay text, and nothing is added.
    pub const TEXT: Self = Self { parse: false, add: false };
    /// The settings for template text: spelled tokens become tokens, and nothing is added.
    pub const TEMPLATE: Self = Self { parse: true, add: false };
    /// The settings for a prompt: spelled tokens become tokens, and the post-processor adds tokens.
    ///
    /// By default, vLLM and llama.cpp encode a text prompt in this way.
    pub const PROMPT: Self = Self { parse: true, add: true };
}

impl Tokenizer {
    /// Loads a `tokenizer.json` file.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](ErrorKind::InvalidInput) if the file cannot be read, or if
    /// [`from_bytes`](Self::from_bytes) rejects it. The message contains the path, and `source()`
    /// returns the cause.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let shown = || printable(&path.to_string_lossy(), MAX_SHOWN_CHARS);
        let mut json = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_TOKENIZER_FILE_BYTES + 1).read_to_end(&mut json))
            .map_err(|e| Error::invalid(format!("cannot read the tokenizer {}", shown())).with_source(e))?;
        Self::from_bytes(&json)
            .map_err(|e| Error::invalid(format!("cannot load the tokenizer {}", shown())).with_source(e))
    }

    /// Loads the contents of a `tokenizer.json` file.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](ErrorKind::InvalidInput) in these cases:
    ///
    /// - The bytes are not a tokenizer file, or the file is larger than
    ///   [`MAX_TOKENIZER_FILE_BYTES`].
    /// - An added token would get an id that differs from its id in the file. The `tokenizers`
    ///   crate numbers such tokens from the end of the vocabulary, and only logs the difference.
    ///   Wrong ids are worse than an error.
    /// - The file contradicts itself, and the `tokenizers` crate panics. The panic is caught, but
    ///   the panic hook has already printed its message. Such a file may also cause the error
    ///   later, when a text is encoded.
    pub fn from_bytes(json: &[u8]) -> Result<Self, Error> {
        if json.len() as u64 > MAX_TOKENIZER_FILE_BYTES {
            return Err(Error::invalid(format!("the file has more than {MAX_TOKENIZER_FILE_BYTES} bytes")));
        }
        let not_one = |e: ForeignError| Error::invalid("not a tokenizer.json").with_source(e);
        let facts: Facts = serde_json::from_slice(json).map_err(|e| not_one(e.into()))?;
        contain(|| {
            let tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(not_one)?;
            Inner::new(tokenizer, facts).map(|inner| Self(Arc::new(inner)))
        })
    }

    /// Encodes `text` into ids.
    ///
    /// If you encode two texts separately and join the ids, the result may differ from the ids of
    /// the joined text. Split a text only at markers.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput) if the vocabulary has neither a character of the
    ///   text nor a token for unknown characters.
    /// - [`InvalidInput`](ErrorKind::InvalidInput) if a byte-level tokenizer does not split a
    ///   million bytes of the text, for example spaces.
    /// - [`Unsupported`](ErrorKind::Unsupported) if [`Special::parse`] is false and plain text
    ///   still becomes a special token. No tokenizer of a chat model is known to do this.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<TokenId>, Error> {
        contain(|| self.0.encode(text, special))
    }

    /// Decodes `ids` into text. Bytes that are not valid UTF-8 become U+FFFD.
    ///
    /// With `skip_special`, tokens that the file marks as special are skipped. The result is the
    /// same as from a [`TokenDecoder`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`TokenDecoder::push`].
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, Error> {
        let mut decoder = self.decode_stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(id)?);
        }
        text.push_str(decoder.finish());
        Ok(text)
    }

    /// Returns a decoder for ids that arrive one at a time.
    #[must_use]
    pub fn decode_stream(&self, skip_special: bool) -> TokenDecoder {
        TokenDecoder::new(self.clone(), skip_special)
    }

    /// Returns the id of an added token by its name: `special_id("<|im_end|>")`.
    ///
    /// It does not find ordinary tokens. Use [`token_id`](Self::token_id) to find an ordinary
    /// token.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](ErrorKind::InvalidInput) if there is no such token. The message
    /// contains the name.
    pub fn special_id(&self, name: &str) -> Result<TokenId, Error> {
        self.0.added.iter().find(|token| token.text == name).map(|token| token.id).ok_or_else(|| {
            let name = printable(name, MAX_SHOWN_CHARS);
            Error::invalid(format!("the tokenizer has no added token {name:?}"))
        })
    }

    /// Returns the id of any token, added or ordinary, by its name in the vocabulary.
    ///
    /// In a byte-level vocabulary, the name is not the text: `Ġthe` is " the".
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<TokenId> {
        self.0.tokenizer.token_to_id(token)
    }

    /// Returns all added tokens, sorted by id.
    #[must_use]
    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.0.added
    }

    /// Returns the number of tokens, including added tokens.
    ///
    /// A model may have more ids than its tokenizer, because the size of the model's table is
    /// rounded up. The additional ids have no text.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.get_vocab_size(true)
    }
}

/// Encodes text with [`Special::TEXT`].
impl Encode for Tokenizer {
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error> {
        let encoding = contain(|| self.0.encoding(text, Special::TEXT, OffsetType::Byte))?;
        let places = encoding.get_offsets().iter().map(|(start, _)| *start);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
    }

    fn token(&self, name: &str) -> Option<TokenId> {
        self.special_id(name).ok()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("added_tokens", &self.0.added.len())
            .finish_non_exhaustive()
    }
}

/// The parts of the file that the crate reads but does not expose.
#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    added_tokens: Vec<FactsToken>,
    #[serde(default)]
    decoder: serde_json::Value,
    model: FactsModel,
}

#[derive(Deserialize)]
struct FactsToken {
    id: TokenId,
    content: String,
}

#[derive(Deserialize)]
struct FactsModel {
    unk_token: Option<String>,
    unk_id: Option<TokenId>,
}

impl Inner {
    fn new(mut tokenizer: tokenizers::Tokenizer, facts: Facts) -> Result<Self, Error> {
        for FactsToken { id, content } in &facts.added_tokens {
            let loaded = tokenizer.token_to_id(content);
            // The `tokenizers` crate ignores a token without text.
            if loaded != Some(*id) && !content.is_empty() {
                let content = printable(content, MAX_SHOWN_CHARS);
                let actual = loaded.map_or_else(|| "no id".to_owned(), |id| format!("id {id}"));
                return Err(Error::invalid(format!(
                    "the added token {content:?} has id {id} in the file, but would get {actual}"
                )));
            }
        }
        let refused = |e: ForeignError| Error::invalid("the tokenizer cannot be used").with_source(e);
        tokenizer.with_truncation(None).map_err(refused)?;
        tokenizer.with_padding(None);

        let known = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let mut added: Vec<_> = known
            .iter()
            .map(|(&id, token)| AddedToken { id, text: token.content.clone(), special: token.special })
            .collect();
        added.sort_unstable_by_key(|token| token.id);

        let mut plain = tokenizer.get_added_vocabulary().clone();
        // The switch `set_encode_special_tokens` applies only to special tokens, so this copy marks
        // all markers as special.
        let structure = added.iter().filter(|token| token.is_structure());
        let structure = structure.filter_map(|token| known.get(&token.id)).map(|t| t.clone().special(true));
        plain
            .add_special_tokens(structure, tokenizer.get_model(), tokenizer.get_normalizer())
            .map_err(refused)?;
        plain.set_encode_special_tokens(true);

        let FactsModel { unk_token, unk_id } = facts.model;
        let unknown = unk_id.or_else(|| tokenizer.token_to_id(&unk_token?));
        Ok(Self { added, plain, unknown, decoding: Decoding::of(&facts.decoder), tokenizer })
    }

    fn added(&self, id: TokenId) -> Option<&AddedToken> {
        self.added.binary_search_by_key(&id, |token| token.id).ok().map(|i| &self.added[i])
    }

    /// Encodes like the crate's `encode_fast`.
    ///
    /// `special` selects the added vocabulary.
    fn encode(&self, text: &str, special: Special) -> Result<Vec<TokenId>, Error> {
        Ok(self.encoding(text, special, OffsetType::None)?.get_ids().to_vec())
    }

    fn encoding(&self, text: &str, special: Special, offsets: OffsetType) -> Result<Encoding, Error> {
        let Special { parse, add } = special;
        let cannot = |e: ForeignError| Error::invalid("the tokenizer cannot encode the text").with_source(e);
        let tokenizer = &self.tokenizer;
        let added = if parse { tokenizer.get_added_vocabulary() } else { &self.plain };
        let mut pieces = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(cannot)?;
        }
        self.check_split(text, &pieces)?;
        tokenizer.get_model().tokenize_in_pretokenized(&mut pieces, None).map_err(cannot)?;
        let mut encoding = pieces.into_encoding(None, 0, offsets).map_err(cannot)?;
        if !parse {
            self.check_plain(encoding.get_ids())?;
        }
        if add {
            encoding = tokenizer.post_process(encoding, None, true).map_err(cannot)?;
        }
        Ok(encoding)
    }

    /// Rejects text that a byte-level tokenizer may have failed to split.
    ///
    /// If the tokenizer's regular expression fails, the crate silently stops splitting, and the
    /// remaining ids are wrong. `fancy-regex` fails after it has backtracked 1,000,000 times, so
    /// the piece that is not split has at least 1,000,000 bytes. This failure happened with Qwen3
    /// and SmolLM2, for a text of 1,000,010 spaces and a word.
    fn check_split(&self, text: &str, pieces: &PreTokenizedString) -> Result<(), Error> {
        if text.len() < MAX_PIECE_BYTES || self.decoding != Decoding::ByteLevel {
            return Ok(());
        }
        // In a byte-level tokenizer, each character of a piece represents one byte.
        let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        if pieces.iter().all(|(piece, _, _)| piece.chars().take(MAX_PIECE_BYTES).count() < MAX_PIECE_BYTES) {
            return Ok(());
        }
        let message = format!("the tokenizer does not split {MAX_PIECE_BYTES} bytes or more of the text");
        Err(Error::invalid(message))
    }

    /// Rejects plain text that became a special token.
    ///
    /// The added vocabulary is not the only source of special tokens: a Unigram model may also
    /// contain a special token as an ordinary word. Tokens that the file does not mark as special
    /// are allowed, because in plain text they are ordinary words of the model (Gemma's `<table>`).
    fn check_plain(&self, ids: &[TokenId]) -> Result<(), Error> {
        let marker = |id: &TokenId| self.added(*id).filter(|t| t.special && Some(t.id) != self.unknown);
        let Some(token) = ids.iter().find_map(marker) else { return Ok(()) };
        let name = printable(&token.text, MAX_SHOWN_CHARS);
        let message = format!("this tokenizer cannot encode {name:?} as plain text");
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

/// Runs code of the `tokenizers` crate, and converts a panic into an error.
///
/// Fuzzing of tokenizer files found three causes of a panic:
///
/// - a template with a token that it does not list;
/// - a `Replace` of nothing;
/// - merges that are shorter than their prefix.
///
/// A panic does not change the state of the tokenizer, but it may leave a cache of words locked.
fn contain<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Error::invalid("the tokenizer file contradicts itself: its code panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a small tokenizer: `a`, `b`, space, newline, and the tokens of the test case.
    fn small(model: &str, more: &str, added: &[(TokenId, &str, bool)]) -> Result<Tokenizer, Error> {
        let added: Vec<String> = added
            .iter()
            .map(|(id, text, special)| {
                format!(
                    r#"{{"id":{id},"content":{text:?},"single_word":false,"lstrip":false,"rstrip":false,
                        "normalized":false,"special":{special}}}"#
                )
            })
            .collect();
        let json =
            format!(r#"{{"version":"1.0","added_tokens":[{}],{more}"model":{{{model}}}}}"#, added.join(","));
        Tokenizer::from_bytes(json.as_bytes())
    }

    const BPE: &str = r#""type":"BPE","unk_token":"<unk>","merges":[],
        "vocab":{"<unk>":0,"a":1,"b":2," ":3,"\n":4,"<":5,">":6,"s":7}"#;

    #[test]
    fn plain_text_never_becomes_a_marker_but_keeps_runs_of_space() {
        let added =
            [(0, "<unk>", true), (8, "<s>", true), (9, "<b>", false), (10, "  ", false), (11, "▁▁", false)];
        let tokenizer = small(BPE, "", &added).unwrap();
        for (text, template, plain) in [
            ("a<s>b", &[1, 8, 2][..], &[1, 5, 7, 6, 2][..]),
            ("a<b>b", &[1, 9, 2], &[1, 5, 2, 6, 2]),
            ("a  b", &[1, 10, 2], &[1, 10, 2]),
            ("a▁▁b", &[1, 11, 2], &[1, 11, 2]),
            ("a?b", &[1, 0, 2], &[1, 0, 2]),
        ] {
            assert_eq!(tokenizer.encode(text, Special::TEMPLATE).unwrap(), template, "{text:?}");
            assert_eq!(tokenizer.encode(text, Special::TEXT).unwrap(), plain, "{text:?}");
        }
    }

    #[test]
    fn plain_text_that_a_vocabulary_turns_into_a_marker_is_refused() {
        let unigram = r#""type":"Unigram","unk_id":0,"byte_fallback":false,
            "vocab":[["<unk>",0],["</s>",0],["a",-1],["<",-9],["/",-9],["s",-9],[">",-9],
                ["▁▁",-1],["<b>",-1]]"#;
        let added = [(0, "<unk>", true), (1, "</s>", true), (7, "▁▁", false), (8, "<b>", false)];
        let tokenizer = small(unigram, "", &added).unwrap();
        assert_eq!(tokenizer.encode("a▁▁<b>", Special::TEXT).unwrap(), [2, 7, 8]);
        assert_eq!(tokenizer.encode("a</s>", Special::TEMPLATE).unwrap(), [2, 1]);
        assert_eq!(tokenizer.encode("a</s>", Special::TEXT).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(tokenizer.encode("a?", Special::TEXT).unwrap(), [2, 0]);
    }

    #[test]
    fn the_post_processor_adds_tokens_only_on_request_and_nothing_is_truncated_or_padded() {
        let more = r#""truncation":{"max_length":2,"strategy":"LongestFirst","stride":0,"direction":"Right"},
            "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,
                "pad_type_id":0,"pad_token":"<unk>"},
            "post_processor":{"type":"TemplateProcessing","pair":[{"Sequence":{"id":"A","type_id":0}}],
                "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
                "special_tokens":{"<s>":{"id":"<s>","ids":[8],"tokens":["<s>"]}}},"#;
        let tokenizer = small(BPE, more, &[(8, "<s>", true)]).unwrap();
        let both = Special { parse: false, add: true };
        for (special, expected) in [
            (Special::TEXT, &[1, 1, 1, 5, 7, 6][..]),
            (Special::TEMPLATE, &[1, 1, 1, 8]),
            (Special::PROMPT, &[8, 1, 1, 1, 8]),
            (both, &[8, 1, 1, 1, 5, 7, 6]),
        ] {
            assert_eq!(tokenizer.encode("aaa<s>", special).unwrap(), expected, "{special:?}");
        }
    }

    #[test]
    fn a_panic_of_the_tokenizers_crate_becomes_an_error() {
        let more = r#""post_processor":{"type":"TemplateProcessing","pair":[],
            "single":[{"SpecialToken":{"id":"<t>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
            "special_tokens":{"<s>":{"id":"<s>","ids":[8],"tokens":["<s>"]}}},"#;
        let kind = small(BPE, more, &[(8, "<s>", true)])
            .and_then(|tokenizer| tokenizer.encode("a", Special::PROMPT))
            .unwrap_err()
            .kind();
        assert_eq!(kind, ErrorKind::InvalidInput);
    }

    #[test]
    fn an_added_token_with_another_id_than_in_the_file_is_refused() {
        assert!(small(BPE, "", &[(8, "<s>", true)]).is_ok());
        for id in [7, 9] {
            let error = small(BPE, "", &[(id, "<s>", true)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("<s>"), "{error}");
        }
    }

    #[test]
    fn a_tokenizer_can_be_shared_between_threads_and_printed() {
        fn crosses<T: Send + Sync + Clone + 'static>() {}
        crosses::<Tokenizer>();
        let tokenizer = small(BPE, "", &[(8, "<s>", true)]).unwrap();
        assert_eq!(format!("{tokenizer:?}"), "Tokenizer { vocab_size: 9, added_tokens: 1, .. }");
    }
}
