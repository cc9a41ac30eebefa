//! Text to ids and back with a model's `tokenizer.json`. The only home of the `tokenizers` crate.

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

/// The largest `tokenizer.json` that is read, in bytes: 256 MiB. The largest known ones have 35 MB.
pub const MAX_TOKENIZER_FILE_BYTES: u64 = 256 << 20;

/// The longest name or path that a message shows, in characters.
const MAX_SHOWN_CHARS: usize = 300;

/// The longest stretch of text without a place to split it, in bytes; see [`Inner::check_split`].
const MAX_PIECE_BYTES: usize = 1_000_000;

type ForeignError = Box<dyn std::error::Error + Send + Sync>;

/// A model's tokenizer, loaded from its `tokenizer.json`.
///
/// Cloning is one reference count, and one tokenizer can be used by many threads at once. It never truncates
/// and never pads, whatever the file says: a prompt is encoded whole or not at all.
///
/// Loading is the dear part, in time and in memory, which is several times the size of the file. So load once
/// and clone; plain-text encoding ([`Special::parse`] false) needs no second copy of the vocabulary. Encoding
/// needs memory of many times the text's size meanwhile.
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
    /// Sorted by id.
    added: Vec<AddedToken>,
    /// The added vocabulary for text that must not become structure: it knows the same tokens and passes over
    /// those for which [`AddedToken::is_structure`] holds. The crate's own switch
    /// (`set_encode_special_tokens`) sits in this part, so no second tokenizer is needed.
    plain: AddedVocabulary,
    /// The token that stands for what the vocabulary cannot spell, if the model has one.
    unknown: Option<TokenId>,
    decoding: Decoding,
}

/// A token that stands apart from the ordinary vocabulary: markers such as `<|im_end|>` and `<tool_call>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddedToken {
    /// Its id.
    pub id: TokenId,
    /// Its text, as it is spelled in a prompt.
    pub text: String,
    /// The file calls it special: decoding can leave it out. Many markers are not (Qwen3's `<think>` and
    /// `<tool_call>`).
    pub special: bool,
}

/// As [`ResponseParser::markers`](crate::ResponseParser::markers) takes it.
impl<'a> From<&'a AddedToken> for (&'a str, TokenId) {
    fn from(token: &'a AddedToken) -> Self {
        (&token.text, token.id)
    }
}

impl AddedToken {
    /// Whether the token can be a marker. The others are runs of white space, which some vocabularies keep
    /// among the added tokens (GPT-NeoX; Gemma, where `▁` stands for a space); ordinary text needs them and
    /// they can do no harm.
    fn is_structure(&self) -> bool {
        self.special || !self.text.chars().all(|c| c.is_whitespace() || c == '▁')
    }
}

/// What encoding does about tokens that are not ordinary text. Two independent questions, the same two that
/// `/tokenize` of llama-server asks as `parse_special` and `add_special`.
///
/// | what is encoded | constant |
/// | --- | --- |
/// | text from outside: a user's words, a tool's result | [`TEXT`](Self::TEXT) (the default) |
/// | a piece of a chat template, markers spelled out | [`TEMPLATE`](Self::TEMPLATE) |
/// | a whole prompt, as servers encode a prompt given as text | [`PROMPT`](Self::PROMPT) |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Special {
    /// Whether an added token that is spelled out in the text becomes that token. Default false: the guard
    /// against a tool result that contains `<|im_end|>`.
    ///
    /// If false, no added token is looked for but runs of white space, whether the file calls it special or
    /// not. That is stricter than `parse_special` false in llama-server and `split_special_tokens` in
    /// transformers: both still make the token of a spelled `<tool_call>` where the file does not call it
    /// special (Qwen3). Where the file calls all of them special (SmolLM2) the ids are equal.
    pub parse: bool,
    /// Whether to add what the file's post-processor adds to every text: for some models a token at the
    /// beginning (Llama, Gemma), for some one at the end, for many nothing (Qwen, SmolLM2). Default false.
    pub add: bool,
}

impl Special {
    /// Plain text, whatever it contains; nothing added.
    pub const TEXT: Self = Self { parse: false, add: false };
    /// Spelled tokens are tokens; nothing added.
    pub const TEMPLATE: Self = Self { parse: true, add: false };
    /// Spelled tokens are tokens, and the post-processor adds its own: what vLLM and llama.cpp do by default
    /// with a prompt that is given as text.
    pub const PROMPT: Self = Self { parse: true, add: true };
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the file cannot be read or is refused by
    /// [`from_bytes`](Self::from_bytes). The message has the path, `source()` the cause.
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

    /// Loads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the bytes are no tokenizer or more than
    /// [`MAX_TOKENIZER_FILE_BYTES`], or if an added token would get another id than the file states (the
    /// `tokenizers` crate counts on from the end of the vocabulary and only logs the difference; wrong ids
    /// are worse than none). Some contradictions in a file make that crate panic, here or while encoding;
    /// that is caught and is this error too, after the panic hook has printed its message.
    pub fn from_bytes(json: &[u8]) -> Result<Self, Error> {
        if json.len() as u64 > MAX_TOKENIZER_FILE_BYTES {
            return Err(Error::invalid(format!("more than {MAX_TOKENIZER_FILE_BYTES} bytes")));
        }
        let not_one = |e: ForeignError| Error::invalid("not a tokenizer.json").with_source(e);
        let facts: Facts = serde_json::from_slice(json).map_err(|e| not_one(e.into()))?;
        contain(|| {
            let tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(not_one)?;
            Inner::new(tokenizer, facts).map(|inner| Self(Arc::new(inner)))
        })
    }

    /// The ids of `text`.
    ///
    /// Texts that are encoded apart and joined can give other ids than the joined text: cut at tokens
    /// that are structure, and nowhere else.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the tokenizer cannot encode it (a vocabulary that has
    /// neither a character nor a token for unknown ones), or if it has a million bytes that a byte-level
    /// tokenizer does not split, such as spaces. [`Unsupported`](ErrorKind::Unsupported) if
    /// [`Special::parse`] is false and the vocabulary is such that plain text becomes a special token all the
    /// same; no tokenizer of a chat model is known to do that.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<TokenId>, Error> {
        contain(|| self.0.encode(text, special))
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD. With `skip_special`, tokens that the file
    /// calls special are left out. The same as pushing all ids through a [`TokenDecoder`].
    ///
    /// # Errors
    ///
    /// As [`TokenDecoder::push`].
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, Error> {
        let mut decoder = self.decode_stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(id)?);
        }
        text.push_str(decoder.finish());
        Ok(text)
    }

    /// Decodes ids one at a time, as they come.
    #[must_use]
    pub fn decode_stream(&self, skip_special: bool) -> TokenDecoder {
        TokenDecoder::new(self.clone(), skip_special)
    }

    /// The id of an added token, by its name: `special_id("<|im_end|>")`. Ordinary words are not
    /// found here, see [`token_id`](Self::token_id).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is none; the message has the name.
    pub fn special_id(&self, name: &str) -> Result<TokenId, Error> {
        self.0.added.iter().find(|token| token.text == name).map(|token| token.id).ok_or_else(|| {
            let name = printable(name, MAX_SHOWN_CHARS);
            Error::invalid(format!("the tokenizer has no added token {name:?}"))
        })
    }

    /// The id of any token, added or ordinary, by its name in the vocabulary: for byte-level
    /// vocabularies that is not its text (`Ġthe` is " the").
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<TokenId> {
        self.0.tokenizer.token_to_id(token)
    }

    /// All added tokens, sorted by id.
    #[must_use]
    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.0.added
    }

    /// The number of tokens, added ones included. A model can have more ids than its tokenizer (its table is
    /// rounded up); those have no text.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.get_vocab_size(true)
    }
}

/// Text is encoded as [`Special::TEXT`] says.
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

/// What is read from the file beside what the crate reads, because the crate does not tell it.
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
            // The crate ignores a token without text.
            if loaded != Some(*id) && !content.is_empty() {
                let content = printable(content, MAX_SHOWN_CHARS);
                return Err(Error::invalid(format!(
                    "the added token {content:?} has id {id} in the file and would get {loaded:?}"
                )));
            }
        }
        let refused = |e: ForeignError| Error::invalid("not a tokenizer that can be used").with_source(e);
        tokenizer.with_truncation(None).map_err(refused)?;
        tokenizer.with_padding(None);

        let known = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let mut added: Vec<_> = known
            .iter()
            .map(|(&id, token)| AddedToken { id, text: token.content.clone(), special: token.special })
            .collect();
        added.sort_unstable_by_key(|token| token.id);

        let mut plain = tokenizer.get_added_vocabulary().clone();
        // "Special" is what the switch goes by, so in this copy all structure is called special.
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

    /// The crate's own `encode_fast`, step by step, so that the added vocabulary can be chosen.
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

    /// When the regular expression of a byte-level tokenizer gives up, the crate stops splitting and says
    /// nothing; the ids of the rest are then wrong. `fancy-regex` gives up after 1,000,000 steps back, so a
    /// piece that long is left. (Seen with Qwen3 and SmolLM2: 1,000,010 spaces and a word.)
    fn check_split(&self, text: &str, pieces: &PreTokenizedString) -> Result<(), Error> {
        if text.len() < MAX_PIECE_BYTES || self.decoding != Decoding::ByteLevel {
            return Ok(());
        }
        // Here one character stands for one byte.
        let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        if pieces.iter().all(|(piece, _, _)| piece.chars().take(MAX_PIECE_BYTES).count() < MAX_PIECE_BYTES) {
            return Ok(());
        }
        let message =
            format!("the text has {MAX_PIECE_BYTES} bytes or more that the tokenizer does not split");
        Err(Error::invalid(message))
    }

    /// The added vocabulary is not the only way to a special token: a model that has it as an ordinary word
    /// too can find it there (Unigram). Tokens that the file does not call special are left alone here: what the
    /// model makes of plain text by itself is an ordinary word of it (Gemma's `<table>`).
    fn check_plain(&self, ids: &[TokenId]) -> Result<(), Error> {
        let marker = |id: &TokenId| self.added(*id).filter(|t| t.special && Some(t.id) != self.unknown);
        match ids.iter().find_map(marker) {
            None => Ok(()),
            Some(token) => {
                let name = printable(&token.text, MAX_SHOWN_CHARS);
                let message = format!("this tokenizer cannot take {name:?} as plain text");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

/// Runs code of the `tokenizers` crate; a panic there becomes an error. (Fuzzing its files brought three: a
/// template that names a token it does not list, a `Replace` of nothing, merges shorter than their prefix.)
/// Nothing that the call changes outlives it, except a cache of words behind a lock.
fn contain<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Error::invalid("the tokenizer contradicts itself: its code panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of few words: `a`, `b`, space and newline, and what the case adds.
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
    fn plain_text_makes_no_marker_but_keeps_runs_of_space() {
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
    fn a_vocabulary_that_makes_markers_of_plain_text_is_refused_it() {
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
    fn the_post_processor_adds_only_when_asked_and_nothing_is_cut_or_filled() {
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
    fn a_panic_of_the_crate_is_an_error() {
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
    fn an_added_token_with_another_id_than_the_file_says_is_refused() {
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
