//! Reads calls written as tags with attributes. A region may contain several calls.
//!
//! An `<invoke name="..">` element contains `<parameter name="..">` elements. Each of these
//! elements contains raw text. DeepSeek's DSML, MiniMax, Step-3 and Kimi K3 write calls this way.
//!
//! ```text
//! region.open ( lead* call.open NAME sharp
//!                 ( parameter.open KEY sharp VALUE parameter.close )*
//!               call.close tail )* region.close
//! ```

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::turn::parse::elements::Elements;
use crate::turn::parse::json_scan::{JsonScan, Scanned};
use crate::turn::parse::machine::{Bounds, CallEnd, Machine, OpenCall, RawCall, RawLeaf, Recovery, Step};
use crate::turn::parse::marker::{List, Marker, Tag};
use crate::turn::parse::raw::{RawEnd, RawForm, RawScan, TagEnd, TagScan};
use crate::turn::parse::schema::is_a;
use crate::turn::parse::view::{Found, Match, View};
use crate::types::tree::Malformed;

/// The tags of such calls in a family of models, in the form of a JSON record.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invoke {
    /// The end marker of the region.
    pub(crate) close: Marker,
    pub(crate) stops: Option<List>,
    /// `true` if a call may appear without the opener of the region.
    #[serde(default)]
    pub(crate) alone: bool,
    /// The texts that may precede a call. The first text in the list opens the call. The other
    /// texts have no meaning.
    #[serde(default)]
    pub(crate) lead: List,
    pub(crate) call: Tag,
    /// The end marker of a call, which follows `call.close`.
    pub(crate) tail: Option<Marker>,
    pub(crate) parameter: Parameter,
    /// The end of an opening tag.
    pub(crate) sharp: Marker,
    /// The name of the attribute that contains the name of the tool.
    pub(crate) name: Marker,
    pub(crate) values: Values,
    /// The tags around all arguments as one JSON object.
    pub(crate) json: Option<Tag>,
}

/// The tags of a parameter.
///
/// With `Values::Elements`, a parameter has no closing tag and no attribute here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameter {
    pub(crate) open: Marker,
    pub(crate) close: Option<Marker>,
    /// The name of the attribute that contains the name of the parameter.
    pub(crate) key: Option<Marker>,
}

/// Describes the variant of such calls that a family of models uses.
#[derive(Debug)]
pub(crate) struct InvokeForm {
    pub(crate) tags: Invoke,
    /// The bounds of a call. They are used after the body of the call, or if the call cannot be
    /// read.
    pub(crate) bounds: Bounds,
    pub(crate) raw: RawForm,
    /// The markers that end other text before the first call.
    ///
    /// After a call, other text ends at the markers in `after_call`.
    pub(crate) before_call: List,
    pub(crate) after_call: List,
}

impl InvokeForm {
    /// Returns the text that precedes each tag of a value.
    fn namespace(&self) -> Marker {
        let open = &*self.tags.parameter.open;
        open.strip_suffix('<').unwrap_or(open).into()
    }
}

/// The format of the value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Values {
    /// Text. The schema of the tool defines the type of the value.
    BySchema,
    /// Text or JSON, depending on the attribute `string`.
    ByString,
    /// Text or JSON, depending on the attribute `type`.
    ByType,
    /// Text or tags. A value with tags is an object or a list.
    ///
    /// The name of the parameter is the name of its tag.
    Elements,
}

/// Reads the calls of one region.
///
/// Each call is returned when its own end arrives. The end of the region adds only a marker.
#[derive(Debug)]
pub(crate) struct InvokeCalls {
    form: Arc<InvokeForm>,
    /// The offset after the opener.
    body: usize,
    /// `true` if the region has an opener.
    opened: bool,
    /// `true` if the opener of the region is missing and no call was found yet.
    ///
    /// The opener of a call may then be part of prose.
    doubtful: bool,
    seen: Seen,
    state: State,
    call: OpenCall,
}

/// The kind of text that the machine read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The opener, which may be part of prose.
    Opener,
    /// The beginning of a call.
    Lead,
    /// A leaf.
    Leaf,
}

#[derive(Debug)]
enum State {
    /// Reads the text between calls. The text from this offset to the current position is blank.
    Between(usize),
    /// Reads other text. The text after the first offset does not belong to a leaf yet. No marker
    /// begins before the second offset.
    Text(usize, usize),
    /// Reads the opening tag of a call.
    Name(TagScan),
    /// Reads the text between parameters.
    Parameters(usize),
    /// Reads the opening tag of a parameter.
    Key(TagScan),
    Value(Key, RawScan),
    Elements(Elements),
    /// Reads the opening tag before the JSON object. `Json` reads the object, and `JsonEnd` reads
    /// the text after the object.
    JsonTag(TagScan),
    Json(JsonScan),
    JsonEnd(usize),
    CallEnd(CallEnd, Option<RawCall>),
    Broken(Recovery),
}

/// The opening tag of a parameter.
#[derive(Debug)]
struct Key {
    name: String,
    /// The type that the tag declares.
    mark: Option<String>,
}

/// The next state, and the step to return before this state begins, if there is a step.
type Next = (State, Option<Step>);

impl InvokeCalls {
    /// Creates a reader.
    ///
    /// `body` is the offset after the opener of the region. Without an opener, `body` is the offset
    /// of the first call.
    pub(crate) fn new(form: Arc<InvokeForm>, body: usize, opened: bool) -> Self {
        Self {
            form,
            body,
            opened,
            doubtful: !opened,
            seen: Seen::Opener,
            state: State::Between(body),
            call: OpenCall::default(),
        }
    }

    fn next(&mut self, view: &View<'_>, state: State) -> Next {
        match state {
            State::Between(from) => self.between(view, from),
            State::Text(from, at) => self.text(view, from, at),
            State::Name(tag) => self.name(view, tag),
            State::Parameters(from) => self.parameters(view, from),
            State::Key(tag) => self.key(view, tag),
            State::Value(key, scan) => self.value(view, key, scan),
            State::Elements(elements) => self.elements(view, elements),
            State::JsonTag(tag) => self.json_tag(view, tag),
            State::Json(scan) => self.json(view, scan),
            State::JsonEnd(end) => self.json_end(view, end),
            State::CallEnd(mut end, mut call) => {
                let step = end.leave(view, &self.form.bounds, &mut call);
                self.leaf(State::CallEnd(end, call), step)
            }
            State::Broken(mut recovery) => {
                let step = recovery.step(view, &self.form.bounds);
                self.leaf(State::Broken(recovery), step)
            }
        }
    }

    /// Converts a step that leaves a call into a step that stays in the region.
    fn leaf(&mut self, state: State, step: Step) -> Next {
        match step {
            Step::Leave { until, leaf, .. } => {
                self.seen = Seen::Leaf;
                (State::Between(until), Some(Step::Leaf { until, leaf }))
            }
            step => (state, Some(step)),
        }
    }

    /// Handles text at `at` that a call cannot contain.
    ///
    /// Either the call is broken, or the text is not a call.
    fn broken(&self, at: usize, reason: Malformed) -> Next {
        let step = self.doubtful.then(|| Step::content(self.body));
        (State::Broken(Recovery::broken(at, reason)), step)
    }

    /// Reads the text between calls.
    ///
    /// The text can be the end of the region, a call, a text that may precede a call, or other
    /// text.
    fn between(&mut self, view: &View<'_>, from: usize) -> Next {
        let at = view.skip_blank(from);
        let next = self.region_end(view, from, at);
        let next = if next.is_none() { self.call_or_lead(view, from, at) } else { next };
        next.unwrap_or_else(|| self.other(view, from, at))
    }

    fn region_end(&self, view: &View<'_>, from: usize, at: usize) -> Option<Next> {
        let close = &self.form.tags.close;
        let step = match view.here(at, close) {
            Match::Partial => Step::Wait,
            Match::Yes if self.seen == Seen::Lead => return Some(self.broken(at, Malformed::Syntax)),
            Match::Yes => Step::marker(at + close.len()),
            Match::No if self.seen != Seen::Leaf || !view.is_cut_short(at, &[&**close]) => return None,
            Match::No => Step::marker(view.text.len()),
        };
        Some((State::Between(from), Some(step)))
    }

    /// Reads the opening tag of a call, or a text that may precede this tag.
    fn call_or_lead(&mut self, view: &View<'_>, from: usize, at: usize) -> Option<Next> {
        let Invoke { call, sharp, .. } = &self.form.tags;
        let wait = Some((State::Between(from), Some(Step::Wait)));
        match view.here(at, &call.open) {
            Match::Partial => return wait,
            Match::Yes => {
                let tag = at + call.open.len();
                let Some(next) = view.bytes().get(tag) else { return wait };
                self.seen = Seen::Lead;
                let is_tag = next.is_ascii_whitespace() || sharp.as_bytes().first() == Some(next);
                let name = || (State::Name(TagScan::new(tag)), None);
                return Some(if is_tag { name() } else { self.broken(tag, Malformed::NoName) });
            }
            Match::No => {}
        }
        let mut leads = self.leads().map(|(n, lead)| (n, lead.len(), view.here(at, lead)));
        let (n, len, here) = leads.find(|(.., here)| *here != Match::No)?;
        drop(leads);
        if here == Match::Partial {
            return wait;
        }
        if n == 0 {
            self.seen = Seen::Lead;
        }
        Some((State::Between(at + len), None))
    }

    /// Returns the texts that may precede a call at the current position.
    ///
    /// A word without `<` may precede a call only after the text that opens the call.
    fn leads(&self) -> impl Iterator<Item = (usize, &Marker)> {
        let after_first = self.seen == Seen::Lead;
        self.form.tags.lead.iter().enumerate().filter(move |(_, lead)| after_first || lead.starts_with('<'))
    }

    /// Handles text at `at` that begins neither a call nor the end of the region.
    fn other(&self, view: &View<'_>, from: usize, at: usize) -> Next {
        let ended = at == view.text.len() && view.ended_cleanly();
        let cut_short = view.is_cut_short(at, &[&*self.form.tags.call.open])
            || self.leads().any(|(_, lead)| view.is_cut_short(at, &[&**lead]));
        match self.seen {
            _ if ended && (self.doubtful || self.seen == Seen::Opener) => {
                (State::Between(from), Some(Step::content(self.body)))
            }
            _ if cut_short => (State::Between(from), Some(Step::Wait)),
            Seen::Opener => (State::Text(self.body, at), None),
            Seen::Lead => self.broken(at, Malformed::Syntax),
            Seen::Leaf if self.opened => (State::Text(from, at), None),
            Seen::Leaf => (State::Between(from), Some(Step::marker(from))),
        }
    }

    /// Reads text in a position where a call is expected.
    ///
    /// Directly after the opener, the opener becomes ordinary text, unless a call or the end of the
    /// region follows. After a call, the text is ordinary text.
    fn text(&mut self, view: &View<'_>, from: usize, at: usize) -> Next {
        let InvokeForm { tags: Invoke { close, call, lead, .. }, before_call, after_call, .. } = &*self.form;
        let suspect = self.seen == Seen::Opener;
        let leave = |until, leaf| (State::Between(from), Some(Step::leave(until, leaf)));
        match view.find(if suspect { before_call } else { after_call }, at) {
            Found::At(at, marker) if *marker == **close && suspect => {
                leave(at + marker.len(), RawLeaf::Malformed(Malformed::Syntax))
            }
            Found::At(at, marker)
                if [close, &call.open].into_iter().chain(lead.first()).any(|m| **m == *marker) =>
            {
                self.seen = Seen::Leaf;
                (State::Between(at), Some(Step::Leaf { until: at, leaf: RawLeaf::Content }))
            }
            Found::At(..) if suspect => leave(self.body, RawLeaf::Content),
            Found::At(at, _) => leave(at, RawLeaf::Content),
            Found::Until(_) if suspect && view.end.is_some() => leave(self.body, RawLeaf::Content),
            Found::Until(at) if !suspect && at > from => {
                (State::Text(at, at), Some(Step::Leaf { until: at, leaf: RawLeaf::Content }))
            }
            Found::Until(at) if view.end.is_some() => leave(at, RawLeaf::Content),
            Found::Until(at) => (State::Text(from, at), Some(Step::Wait)),
        }
    }

    fn name(&mut self, view: &View<'_>, mut tag: TagScan) -> Next {
        match tag.step(view, &self.form.tags.sharp) {
            TagEnd::More => (State::Name(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            TagEnd::Text(text, after) => match attribute(text, &self.form.tags.name) {
                Some(name) if !name.trim().is_empty() => {
                    self.doubtful = false;
                    self.call = OpenCall::new(name.trim(), after);
                    (State::Parameters(after), None)
                }
                _ => self.broken(after, Malformed::NoName),
            },
        }
    }

    fn parameters(&mut self, view: &View<'_>, from: usize) -> Next {
        let Invoke { call, parameter, json, values, .. } = &self.form.tags;
        let at = view.skip_blank(from);
        match view.here(at, &call.close) {
            Match::Yes => return self.call_end(view, at, at + call.close.len()),
            Match::Partial => return (State::Parameters(from), Some(Step::Wait)),
            Match::No => {}
        }
        let json_open = json.as_ref().map_or("", |json| &json.open);
        let json_here = if json_open.is_empty() { Match::No } else { view.here(at, json_open) };
        match (view.here(at, &parameter.open), json_here) {
            (Match::Yes, _) if *values == Values::Elements => {
                (State::Elements(Elements::new(self.form.namespace(), at)), None)
            }
            (Match::Yes, _) => (State::Key(TagScan::new(at + parameter.open.len())), None),
            (_, Match::Yes) if self.call.arguments.is_empty() => {
                (State::JsonTag(TagScan::new(at + json_open.len())), None)
            }
            (Match::No, Match::No | Match::Yes)
                if !view.is_cut_short(at, &[&*call.close, &*parameter.open]) =>
            {
                self.broken(at, Malformed::Syntax)
            }
            _ => (State::Parameters(from), Some(Step::Wait)),
        }
    }

    fn call_end(&mut self, view: &View<'_>, raw_end: usize, end: usize) -> Next {
        if self.form.tags.values == Values::ByString {
            unwrap_arguments(view, &mut self.call);
        }
        let call = self.call.end(view, raw_end);
        if self.form.tags.tail.is_some() {
            (State::CallEnd(CallEnd::new(end), Some(call)), None)
        } else {
            self.seen = Seen::Leaf;
            (State::Between(end), Some(Step::Leaf { until: end, leaf: RawLeaf::Call(call) }))
        }
    }

    fn key(&mut self, view: &View<'_>, mut tag: TagScan) -> Next {
        let Invoke { sharp, parameter, values, .. } = &self.form.tags;
        match tag.step(view, sharp) {
            TagEnd::More => (State::Key(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            TagEnd::Text(text, after) => {
                let mark = if *values == Values::ByType { "type" } else { "string" };
                let mark = attribute(text, mark).map(str::to_owned);
                match attribute(text, parameter.key.as_deref().unwrap_or_default()) {
                    Some(name) => {
                        let name = name.trim().to_owned();
                        (State::Value(Key { name, mark }, RawScan::new(after)), None)
                    }
                    None => self.broken(after, Malformed::Syntax),
                }
            }
        }
    }

    fn value(&mut self, view: &View<'_>, key: Key, mut scan: RawScan) -> Next {
        match scan.step(view, &self.form.raw) {
            RawEnd::More => (State::Value(key, scan), Some(Step::Wait)),
            RawEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            RawEnd::Value(range, after) => {
                let value = self.typed(view, &key, &view.text[range]);
                self.call.arguments.insert(key.name, value);
                (State::Parameters(after), None)
            }
        }
    }

    /// Returns the value of a parameter.
    ///
    /// If the format marks the types of values, the mark of a value defines its type. A value that
    /// does not match its mark is a string (R4 and R10 in docs/parsing-rules.md).
    fn typed(&self, view: &View<'_>, key: &Key, raw: &str) -> Value {
        let json = |allowed: &dyn Fn(&Value) -> bool| {
            let value = serde_json::from_str::<Value>(raw).ok().filter(|value| allowed(value));
            value.unwrap_or_else(|| raw.into())
        };
        match (self.form.tags.values, key.mark.as_deref()) {
            (Values::ByString, Some("true")) | (Values::ByType, Some("string")) => raw.into(),
            (Values::ByString, Some("false")) => json(&|_| true),
            (Values::ByType, Some(name)) => json(&|value| is_a(value, name)),
            _ => view.tools.value(&self.call.name, &key.name, raw),
        }
    }

    fn elements(&mut self, view: &View<'_>, mut elements: Elements) -> Next {
        match elements.step(view) {
            None => (State::Elements(elements), Some(Step::Wait)),
            Some(Err((at, reason))) => self.broken(at, reason),
            Some(Ok((key, element, after))) => {
                let value = view.tools.element(&self.call.name, &key, &element);
                self.call.arguments.insert(key, value);
                (State::Parameters(after), None)
            }
        }
    }

    fn json_tag(&mut self, view: &View<'_>, mut tag: TagScan) -> Next {
        match tag.step(view, &self.form.tags.sharp) {
            TagEnd::More => (State::JsonTag(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            TagEnd::Text(_, after) => {
                let at = view.skip_blank(after);
                match view.bytes().get(at) {
                    Some(b'{') => (State::Json(JsonScan::new(at)), None),
                    Some(_) => self.broken(at, Malformed::Syntax),
                    None => (State::JsonTag(tag), Some(Step::Wait)),
                }
            }
        }
    }

    fn json(&mut self, view: &View<'_>, mut scan: JsonScan) -> Next {
        match scan.advance(view) {
            Scanned::More => (State::Json(scan), Some(Step::Wait)),
            Scanned::Bad(reason) => self.broken(scan.start, reason),
            Scanned::Value(end) => match serde_json::from_str(&view.text[scan.start..end]) {
                Ok(arguments) => {
                    self.call.arguments = arguments;
                    (State::JsonEnd(end), None)
                }
                Err(_) => self.broken(end, Malformed::Syntax),
            },
        }
    }

    fn json_end(&mut self, view: &View<'_>, end: usize) -> Next {
        let close = self.form.tags.json.as_ref().map_or("", |json| &json.close);
        let at = view.skip_blank(end);
        match view.here(at, close) {
            Match::Yes => (State::Parameters(at + close.len()), None),
            Match::No if !view.is_cut_short(at, &[close]) => self.broken(at, Malformed::Syntax),
            Match::Partial | Match::No => (State::JsonEnd(end), Some(Step::Wait)),
        }
    }
}

impl Machine for InvokeCalls {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        let state = std::mem::replace(&mut self.state, State::Between(self.body));
        let (state, step) = self.next(view, state);
        self.state = state;
        step
    }
}

/// Unwraps arguments that consist of one object under one name.
///
/// The name must not be a parameter of the tool.
///
/// Some models write all arguments this way.
fn unwrap_arguments(view: &View<'_>, call: &mut OpenCall) {
    let mut all = call.arguments.iter_mut();
    let (Some((key, Value::Object(inner))), None) = (all.next(), all.next()) else { return };
    if ["arguments", "input"].contains(&&**key) && view.tools.takes(&call.name, key) == Some(false) {
        call.arguments = std::mem::take(inner);
    }
}

/// Returns the value of an attribute in an opening tag such as ` a="x" b='y' c=z`.
///
/// The value may be in double quotes, in single quotes or without quotes.
fn attribute<'a>(tag: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = tag;
    loop {
        // A blank ends the name of a tag.
        let (name, after) = rest.strip_prefix(|c: char| c.is_ascii_whitespace())?.split_once('=')?;
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, next) = match quote {
            Some(quote) => after[1..].split_once(quote)?,
            None => after.split_at(after.find(|c: char| c.is_ascii_whitespace()).unwrap_or(after.len())),
        };
        if name.trim() == wanted {
            return Some(value);
        }
        rest = next;
    }
}
