//! Reads calls written as a header that names the tool, followed by the arguments in JSON.
//!
//! Kimi K2, DeepSeek up to V3.1 and Mistral since tokenizer v11 write calls this way.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::{Broken, JsonCalls, JsonForm};
use crate::turn::parse::json_scan::{JsonScan, Scanned};
use crate::turn::parse::machine::{Bounds, CallEnd, Machine, RawCall, RawLeaf, Recovery, Step};
use crate::turn::parse::marker::{List, Marker};
use crate::turn::parse::view::{Match, RegionEnd, View};
use crate::types::tree::Malformed;

/// Describes the variant of such calls that a family of models uses.
///
/// A call consists of a header, which is a list of words, and an object.
///
/// A mark may precede each word.
#[derive(Debug)]
pub(crate) struct HeadedForm {
    pub(crate) bounds: Bounds,
    /// The marks that may precede a word of the header or the object.
    pub(crate) marks: List,
    /// The text that may be between the object and the end marker.
    pub(crate) fence: Marker,
    pub(crate) header: Header,
    /// The JSON form that the body of a call may have instead.
    pub(crate) json: Option<Arc<JsonForm>>,
}

/// The meaning of the words in a header.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Header {
    /// The first word is the id: `functions.NAME:INDEX`. Models may leave out every part except
    /// `NAME`.
    Id,
    /// The last word is the name.
    Last,
    /// The first word is the name, and the word after this mark is the id.
    First { id_mark: Option<Marker> },
}

impl Header {
    /// Returns the id, if the header contains an id, and the name.
    ///
    /// `words` contains pairs of a mark and the word after it.
    fn read(&self, words: &[(&str, &str)]) -> (Option<String>, String) {
        let text = |word: &(&str, &str)| word.1.to_owned();
        let after = |mark: &str| words.iter().find(|(before, word)| *before == mark && !word.is_empty());
        match self {
            Self::Id => {
                let id = words.first().map_or("", |(_, word)| *word);
                let name = id.strip_prefix("functions.").unwrap_or(id);
                let is_index = |index: &str| index.bytes().all(|byte| byte.is_ascii_digit());
                let parts = name.rsplit_once(':').filter(|(_, index)| is_index(index));
                let name = parts.map_or(name, |(name, _)| name);
                (Some(id.to_owned()), name.to_owned())
            }
            Self::Last => {
                let name = words.iter().rev().find(|(_, word)| !word.is_empty());
                (None, name.map(text).unwrap_or_default())
            }
            Self::First { id_mark } => {
                let id = id_mark.as_deref().and_then(after).map(text);
                (id, after("").map(text).unwrap_or_default())
            }
        }
    }
}

/// The maximum number of words in a header, including a last word that is empty.
const MAX_WORDS: usize = 4;

/// Reads one call.
#[derive(Debug)]
pub(crate) struct HeadedCall {
    form: Arc<HeadedForm>,
    body: usize,
    /// The words of the header, each with the mark that precedes it.
    words: Vec<(Marker, Range<usize>)>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Skips blanks before the header. The text is blank up to this offset.
    Open(usize),
    /// Reads the header. The next part of the header begins at this offset.
    Head(usize),
    /// Reads a word of the header. The word was read up to this offset.
    Word(usize),
    Object(JsonScan),
    Broken(Broken),
    /// Reads the text after the object. The object ends at the first offset, and the fence may be
    /// at the second offset.
    Fence(usize, usize, RawCall),
    CallEnd(CallEnd, Option<RawCall>),
    Recovery(Recovery),
    Json(JsonCalls),
}

impl HeadedCall {
    /// Creates a reader. `body` is the offset after the opener.
    pub(crate) fn new(form: Arc<HeadedForm>, body: usize) -> Self {
        Self { form, body, words: vec![(Marker::default(), body..body)], state: State::Open(body) }
    }

    fn open(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        self.state = State::Open(at);
        let mark = self.mark(view, at);
        self.state = match (mark, view.bytes().get(at), &self.form.json) {
            // If the turn ends directly after the opener, the opener is prose.
            (_, None, _) if view.ended_cleanly() => return Some(Step::content(self.body)),
            (_, None, _) | (Mark::Partial, ..) => return Some(Step::Wait),
            (Mark::No, Some(b'{' | b'['), Some(json)) => State::Json(JsonCalls::new(json.clone(), self.body)),
            _ => State::Head(at),
        };
        None
    }

    /// Returns the kind of marker at `at` that ends a word.
    ///
    /// A word ends at a mark of the header or at the end of the call.
    fn mark(&self, view: &View<'_>, at: usize) -> Mark<'_> {
        let mut wait = false;
        for marker in &*self.form.marks {
            match view.here(at, marker) {
                Match::Yes if !wait => return Mark::Of(marker),
                Match::Partial => wait = true,
                Match::Yes | Match::No => {}
            }
        }
        match self.form.bounds.here(view, at) {
            Match::Yes => Mark::Bound,
            Match::No if !wait => Mark::No,
            Match::Partial | Match::No => Mark::Partial,
        }
    }

    /// Reads the text between the words of a header.
    fn head(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        let has_word = self.words.last().is_some_and(|(_, word)| !word.is_empty());
        self.state = match (self.mark(view, at), view.bytes().get(at)) {
            (Mark::Partial, _) | (_, None) => {
                self.state = State::Head(at);
                return Some(self.wait(view));
            }
            (Mark::Of(mark), _) if self.words.len() < MAX_WORDS => {
                let at = at + mark.len();
                let mark = mark.clone();
                self.words.push((mark, at..at));
                State::Head(at)
            }
            (Mark::Bound, _) if self.words.len() > 1 && !self.form.bounds.close.is_empty() => {
                return self.no_arguments(view, at);
            }
            (Mark::No, Some(b'{')) => State::Object(JsonScan::new(at)),
            (Mark::No, Some(_)) if !has_word && !view.is_real(at) && begins_word(&view.text[at..]) => {
                if let Some((_, word)) = self.words.last_mut() {
                    *word = at..at;
                }
                State::Word(at)
            }
            _ => State::Recovery(self.no_head()),
        };
        None
    }

    fn word(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let mut at = from;
        while let Some(byte) = view.bytes().get(at) {
            if matches!(byte, b'{' | b' ' | b'\t' | b'\n' | b'\r') || view.is_real(at) {
                break;
            }
            match self.mark(view, at) {
                Mark::No => at += 1,
                Mark::Partial => {
                    self.state = State::Word(at);
                    return Some(self.wait(view));
                }
                Mark::Of(_) | Mark::Bound => break,
            }
        }
        let ended = at < view.text.len();
        if let Some((_, word)) = self.words.last_mut().filter(|_| ended) {
            word.end = at;
        }
        self.state = if ended { State::Head(at) } else { State::Word(at) };
        if ended { None } else { Some(self.wait(view)) }
    }

    fn object(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Object(scan) = &mut self.state else { return None };
        let start = scan.start;
        self.state = match scan.advance(view) {
            // If a string has no end, it must not include the end marker and the text after this
            // marker.
            Scanned::More if view.ended_cleanly() => {
                State::Recovery(Recovery::broken(start, Malformed::Unfinished))
            }
            Scanned::More => return Some(Step::Wait),
            Scanned::Value(end) => match self.call(view, start..end) {
                Ok(call) => State::Fence(end, end, call),
                Err(reason) => State::Broken(Broken::new(start, reason)),
            },
            Scanned::Bad(reason) => State::Broken(Broken::new(start, reason)),
        };
        None
    }

    /// Waits for more of the header.
    ///
    /// If the turn ended cleanly, a single word after a blank is prose.
    fn wait(&self, view: &View<'_>) -> Step {
        let apart = matches!(&self.words[..], [(_, word)] if word.start > self.body);
        if apart && view.ended_cleanly() { Step::content(self.body) } else { Step::Wait }
    }

    /// Handles text that is not a header.
    ///
    /// If no mark precedes the text, the text is prose.
    fn no_head(&self) -> Recovery {
        if self.words.len() > 1 {
            Recovery::broken(self.body, Malformed::Syntax)
        } else {
            Recovery::suspect(self.body)
        }
    }

    /// Ends a call that has no arguments.
    ///
    /// Between explicit call markers, missing arguments mean `{}` (R10 in docs/parsing-rules.md).
    fn no_arguments(&mut self, view: &View<'_>, at: usize) -> Option<Step> {
        self.state = match (view.here(at, &self.form.bounds.close), self.call(view, at..at)) {
            (Match::Yes, Ok(call)) => State::CallEnd(CallEnd::new(at), Some(call)),
            (Match::Yes, Err(reason)) => State::Recovery(Recovery::broken(self.body, reason)),
            _ => State::Recovery(Recovery::broken(self.body, Malformed::Syntax)),
        };
        None
    }

    fn call(&self, view: &View<'_>, object: Range<usize>) -> Result<RawCall, Malformed> {
        let words: Vec<(&str, &str)> =
            self.words.iter().map(|(mark, word)| (&**mark, &view.text[word.clone()])).collect();
        let (id, name) = self.form.header.read(&words);
        if name.is_empty() {
            return Err(Malformed::NoName);
        }
        let raw = &view.text[object];
        let arguments = match raw {
            "" => Value::Object(Map::new()),
            _ => serde_json::from_str(raw).map_err(|_| Malformed::Syntax)?,
        };
        Ok(RawCall { id, name, arguments, raw: if raw.is_empty() { "{}" } else { raw }.to_owned() })
    }

    fn fence(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Fence(end, at, _) = &mut self.state else { return None };
        let (fence, mut body_end) = (&self.form.fence, *end);
        if !fence.is_empty() {
            *at = view.skip_blank(*at);
            match view.here(*at, fence) {
                Match::Yes => body_end = *at + fence.len(),
                Match::No if view.is_cut_at(*at, fence) => body_end = view.text.len(),
                Match::No => {}
                Match::Partial => return Some(Step::Wait),
            }
        }
        if let State::Fence(.., call) = std::mem::replace(&mut self.state, State::Head(body_end)) {
            self.state = State::CallEnd(CallEnd::new(body_end), Some(call));
        }
        None
    }
}

/// Returns whether the text begins with a word.
///
/// In prose, the text after an opener often begins with punctuation.
fn begins_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

enum Mark<'a> {
    Of(&'a Marker),
    /// The end marker of the call, or a stop.
    Bound,
    No,
    Partial,
}

impl Machine for HeadedCall {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Open(from) => self.open(view, from),
            State::Head(from) => self.head(view, from),
            State::Word(from) => self.word(view, from),
            State::Object(_) => self.object(view),
            State::Broken(ref mut broken) => Some(broken.leave(view, &self.form.bounds)),
            State::Fence(..) => self.fence(view),
            State::CallEnd(ref mut end, ref mut call) => Some(end.leave(view, &self.form.bounds, call)),
            State::Recovery(ref mut recovery) => Some(recovery.step(view, &self.form.bounds)),
            State::Json(ref mut json) => Some(json.step(view)),
        }
    }
}

/// Reads the opener of a list of calls.
///
/// If the opener is not real and no call follows it, the opener is ordinary text.
#[derive(Debug)]
pub(crate) struct Section {
    open: usize,
    body: usize,
    at: usize,
    followed_by: List,
}

impl Section {
    pub(crate) fn new(open: usize, body: usize, followed_by: List) -> Self {
        Self { open, body, at: body, followed_by }
    }
}

impl Machine for Section {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        self.at = view.skip_blank(self.at);
        let leaf = match view.any_here(self.at, &self.followed_by) {
            _ if view.is_real(self.open) => RawLeaf::Marker,
            Match::Yes => RawLeaf::Marker,
            Match::Partial => return Some(Step::Wait),
            Match::No if view.end == Some(RegionEnd::Cut) && self.at == view.text.len() => {
                return Some(Step::Wait);
            }
            Match::No => RawLeaf::Content,
        };
        Some(Step::leave(self.body, leaf))
    }
}
