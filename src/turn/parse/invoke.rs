//! Calls written as tags with attributes, `<invoke name="..">` around `<parameter name="..">` around raw text, several
//! of them in one region: DeepSeek's DSML, MiniMax, Step-3, Kimi K3.
//!
//! ```text
//! region.open ( lead* call.open NAME sharp
//!                 ( parameter.open KEY sharp VALUE parameter.close )*
//!               call.close tail )* region.close
//! ```

use serde::Deserialize;
use serde_json::{Map, Value};

use super::elements::Elements;
use super::json::{Scan, Scanned};
use super::machine::{Bounds, Machine, Markers, Outcome, RawCall, Seek, Step, Tail};
use super::raw::{RawEnd, RawForm, RawScan, TagEnd, TagScan};
use super::schema::is_a;
use super::view::{Found, Here, RegionEnd, View};
use crate::types::tree::Malformed;

/// How a family writes them.
#[derive(Debug)]
pub(super) struct InvokeForm {
    pub(super) region: Tag,
    /// What may stand before a call: the first of these opens it, the others mean nothing.
    pub(super) lead: &'static [&'static str],
    pub(super) call: Tag,
    /// The call's end where `call.close` is not it; else empty.
    pub(super) tail: &'static str,
    pub(super) parameter: Tag,
    /// What ends an opening tag.
    pub(super) sharp: &'static str,
    /// The attributes that hold the call's and the parameter's names.
    pub(super) name: &'static str,
    pub(super) key: &'static str,
    pub(super) values: Values,
    /// All arguments as one JSON object in place of the parameters; else empty.
    pub(super) json: Tag,
    /// What may come after a call: the openers and ends of calls, of the region and of the turn.
    pub(super) stops: &'static [&'static str],
    /// The markers of reasoning.
    pub(super) think: &'static [&'static str],
}

impl InvokeForm {
    /// What stands before each tag of a value.
    fn namespace(&self) -> &'static str {
        self.parameter.open.strip_suffix('<').unwrap_or(self.parameter.open)
    }
}

/// The opening tag, without what ends it if it has attributes, and the closing tag.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
}

/// What a parameter's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Values {
    /// Text, whose type the tool's schema tells.
    BySchema,
    /// Text or JSON, as the attribute `string` says.
    ByString,
    /// Text or JSON, as the attribute `type` says.
    ByType,
    /// Text or tags: what has tags in it is an object or a list. The parameter's name is that of its tag.
    Elements,
}

/// Reads the calls of one region. A call is handed out at its own end; what the region's end adds is a marker.
#[derive(Debug)]
pub(super) struct InvokeCalls {
    form: &'static InvokeForm,
    /// After the opener.
    body: usize,
    /// The region's opener was there.
    opened: bool,
    /// It was not, and no call has been seen: the opener of a call may have been spelled in prose.
    doubtful: bool,
    seen: Seen,
    state: State,
    name: String,
    arguments: Map<String, Value>,
    /// Where the arguments begin.
    raw: usize,
}

/// What there has been since the opener, or the last leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The opener, which may have been spelled in prose.
    Opener,
    /// The beginning of a call.
    Lead,
    /// A leaf.
    Leaf,
}

#[derive(Debug)]
enum State {
    /// Between calls: nothing but blanks from here on.
    Between(usize),
    /// Other text. From the first place on it is in no leaf; up to the second there is no marker.
    Text(usize, usize),
    /// In a call's opening tag.
    Name(TagScan),
    /// Between parameters.
    Parameters(usize),
    /// In a parameter's opening tag.
    Key(TagScan),
    Value(Key, RawScan),
    Elements(Elements),
    /// In the opening tag of the JSON object, in it, and behind it.
    JsonTag(TagScan),
    Json(Scan),
    JsonEnd(usize),
    Tail(Tail, Option<RawCall>),
    Broken(Seek),
}

/// A parameter's opening tag.
#[derive(Debug)]
struct Key {
    name: String,
    /// What it says of its type.
    mark: Option<String>,
}

/// The next state, and the step if there is one to be taken first.
type Next = (State, Option<Step>);

impl InvokeCalls {
    /// `body` is the place after the region's opener, or that of the first call's if there is none.
    pub(super) fn new(form: &'static InvokeForm, body: usize, opened: bool) -> Self {
        Self {
            form,
            body,
            opened,
            doubtful: !opened,
            seen: Seen::Opener,
            state: State::Between(body),
            name: String::new(),
            arguments: Map::new(),
            raw: body,
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
            State::Tail(mut tail, mut call) => {
                let step = tail.leave(view, self.bounds(), &mut call);
                self.leaf(State::Tail(tail, call), step)
            }
            State::Broken(mut seek) => {
                let step = seek.step(view, self.bounds());
                self.leaf(State::Broken(seek), step)
            }
        }
    }

    /// Where a call ends that cannot be read or has been.
    fn bounds(&self) -> Bounds {
        let InvokeForm { call, tail, stops, .. } = self.form;
        Bounds { close: if tail.is_empty() { call.close } else { tail }, stops }
    }

    /// What leaves a call stays in the region.
    fn leaf(&mut self, state: State, step: Step) -> Next {
        match step {
            Step::Leave { until, leaf, .. } => {
                self.seen = Seen::Leaf;
                (State::Between(until), Some(Step::Leaf { until, leaf }))
            }
            step => (state, Some(step)),
        }
    }

    /// What stands at `at` has no place in a call: it is broken, or no call at all.
    fn broken(&self, at: usize, reason: Malformed) -> Next {
        let step = self.doubtful.then(|| Step::leave(self.body, Outcome::Content));
        (State::Broken(Seek::broken(at, reason)), step)
    }

    fn between(&mut self, view: &View<'_>, from: usize) -> Next {
        let InvokeForm { region, lead, call, sharp, .. } = self.form;
        let at = view.skip_blank(from);
        let wait = (State::Between(from), Some(Step::Wait));
        match view.here(at, region.close) {
            Here::Yes if self.seen == Seen::Lead => return self.broken(at, Malformed::Syntax),
            Here::Yes => {
                let step = Step::leave(at + region.close.len(), Outcome::Marker);
                return (State::Between(from), Some(step));
            }
            Here::NotYet => return wait,
            Here::No => {}
        }
        if self.seen == Seen::Leaf && view.is_cut_short(at, &[region.close]) {
            return (State::Between(from), Some(Step::leave(view.text.len(), Outcome::Marker)));
        }
        match view.here(at, call.open) {
            Here::Yes => {
                let tag = at + call.open.len();
                let is_tag = match view.bytes().get(tag) {
                    None => return wait,
                    Some(next) => next.is_ascii_whitespace() || sharp.as_bytes().first() == Some(next),
                };
                self.seen = Seen::Lead;
                if !is_tag {
                    return self.broken(tag, Malformed::NoName);
                }
                return (State::Name(TagScan::new(tag)), None);
            }
            Here::NotYet => return wait,
            Here::No => {}
        }
        // A bare word means nothing only behind what opens a call.
        let leads = || {
            let after_first = self.seen == Seen::Lead;
            lead.iter().filter(move |lead| after_first || lead.starts_with('<')).copied()
        };
        let mut cut_short = view.is_cut_short(at, &[call.open]);
        for marker in leads() {
            match view.here(at, marker) {
                Here::Yes => {
                    if lead.first() == Some(&marker) {
                        self.seen = Seen::Lead;
                    }
                    return (State::Between(at + marker.len()), None);
                }
                Here::NotYet => return wait,
                Here::No => cut_short |= view.is_cut_short(at, &[marker]),
            }
        }
        match self.seen {
            _ if at == view.text.len()
                && view.end == Some(RegionEnd::Clean)
                && (self.doubtful || self.seen == Seen::Opener) =>
            {
                (State::Between(from), Some(Step::leave(self.body, Outcome::Content)))
            }
            _ if cut_short => wait,
            Seen::Opener => (State::Text(self.body, at), None),
            Seen::Lead => self.broken(at, Malformed::Syntax),
            Seen::Leaf if self.opened => (State::Text(from, at), None),
            Seen::Leaf => (State::Between(from), Some(Step::leave(from, Outcome::Marker))),
        }
    }

    /// Text where a call should be. After the opener it says that this is no region, until a call comes or the
    /// end; after a call it is ordinary text.
    fn text(&mut self, view: &View<'_>, from: usize, at: usize) -> Next {
        let InvokeForm { region, call, stops, think, .. } = self.form;
        let suspect = self.seen == Seen::Opener;
        let look = Markers::new(&[stops, &[call.open], if suspect { &[] } else { think }]);
        match view.find(look.as_slice(), at) {
            Found::At(at, marker) if marker == region.close && suspect => {
                let step = Step::leave(at + marker.len(), Outcome::Malformed(Malformed::Syntax));
                (State::Between(at), Some(step))
            }
            Found::At(at, marker)
                if marker == region.close
                    || marker == call.open
                    || self.form.lead.first() == Some(&marker) =>
            {
                self.seen = Seen::Leaf;
                (State::Between(at), Some(Step::Leaf { until: at, leaf: Outcome::Content }))
            }
            Found::At(..) if suspect => {
                (State::Between(from), Some(Step::leave(self.body, Outcome::Content)))
            }
            Found::At(at, _) => (State::Between(from), Some(Step::leave(at, Outcome::Content))),
            Found::Until(_) if suspect && view.end.is_some() => {
                (State::Between(from), Some(Step::leave(self.body, Outcome::Content)))
            }
            Found::Until(at) if !suspect && at > from => {
                (State::Text(at, at), Some(Step::Leaf { until: at, leaf: Outcome::Content }))
            }
            Found::Until(at) if view.end.is_some() => {
                (State::Between(from), Some(Step::leave(at, Outcome::Content)))
            }
            Found::Until(at) => (State::Text(from, at), Some(Step::Wait)),
        }
    }

    fn name(&mut self, view: &View<'_>, mut tag: TagScan) -> Next {
        match tag.step(view, self.form.sharp) {
            TagEnd::More => (State::Name(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            TagEnd::Text(text, after) => match attribute(text, self.form.name) {
                Some(name) if !name.trim().is_empty() => {
                    self.doubtful = false;
                    self.name = name.trim().to_owned();
                    self.arguments = Map::new();
                    self.raw = after;
                    (State::Parameters(after), None)
                }
                _ => self.broken(after, Malformed::NoName),
            },
        }
    }

    fn parameters(&mut self, view: &View<'_>, from: usize) -> Next {
        let InvokeForm { call, parameter, json, .. } = self.form;
        let at = view.skip_blank(from);
        match view.here(at, call.close) {
            Here::Yes => return self.call_end(view, at, at + call.close.len()),
            Here::NotYet => return (State::Parameters(from), Some(Step::Wait)),
            Here::No => {}
        }
        let json_here = if json.open.is_empty() { Here::No } else { view.here(at, json.open) };
        match (view.here(at, parameter.open), json_here) {
            (Here::Yes, _) if self.form.values == Values::Elements => {
                (State::Elements(Elements::new(self.form.namespace(), at)), None)
            }
            (Here::Yes, _) => (State::Key(TagScan::new(at + parameter.open.len())), None),
            (_, Here::Yes) if self.arguments.is_empty() => {
                (State::JsonTag(TagScan::new(at + json.open.len())), None)
            }
            (Here::No, Here::No | Here::Yes) if !view.is_cut_short(at, &[call.close, parameter.open]) => {
                self.broken(at, Malformed::Syntax)
            }
            _ => (State::Parameters(from), Some(Step::Wait)),
        }
    }

    fn call_end(&mut self, view: &View<'_>, raw_end: usize, end: usize) -> Next {
        let mut arguments = std::mem::take(&mut self.arguments);
        if self.form.values == Values::ByString {
            arguments = unwrapped(view, &self.name, arguments);
        }
        let call = RawCall {
            id: None,
            name: std::mem::take(&mut self.name),
            arguments: Value::Object(arguments),
            raw: view.text[self.raw..raw_end].to_owned(),
        };
        if self.form.tail.is_empty() {
            self.seen = Seen::Leaf;
            (State::Between(end), Some(Step::Leaf { until: end, leaf: Outcome::Call(call) }))
        } else {
            (State::Tail(Tail::new(end), Some(call)), None)
        }
    }

    fn key(&mut self, view: &View<'_>, mut tag: TagScan) -> Next {
        let InvokeForm { sharp, key, values, .. } = self.form;
        match tag.step(view, sharp) {
            TagEnd::More => (State::Key(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            TagEnd::Text(text, after) => {
                let mark = if *values == Values::ByType { "type" } else { "string" };
                let mark = attribute(text, mark).map(str::to_owned);
                match attribute(text, key) {
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
        let InvokeForm { call, parameter, stops, .. } = self.form;
        let form = RawForm { end: parameter.close, call_end: call.close, tail: self.form.tail, stops };
        match scan.step(view, &form) {
            RawEnd::More => (State::Value(key, scan), Some(Step::Wait)),
            RawEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            RawEnd::Value(range, after) => {
                let value = self.typed(view, &key, &view.text[range]);
                self.arguments.insert(key.name, value);
                (State::Parameters(after), None)
            }
        }
    }

    /// A format that marks types itself uses its own marks, and a value that is not what its mark promises is a string
    /// (rules R4 and R10 of docs/parsing-rules.md).
    fn typed(&self, view: &View<'_>, key: &Key, raw: &str) -> Value {
        let json = |allowed: &dyn Fn(&Value) -> bool| {
            let value = serde_json::from_str::<Value>(raw).ok().filter(|value| allowed(value));
            value.unwrap_or_else(|| raw.into())
        };
        match (self.form.values, key.mark.as_deref()) {
            (Values::ByString, Some("true")) | (Values::ByType, Some("string")) => raw.into(),
            (Values::ByString, Some("false")) => json(&|_| true),
            (Values::ByType, Some(name)) => json(&|value| is_a(value, name)),
            _ => view.tools.value(&self.name, &key.name, raw),
        }
    }

    fn elements(&mut self, view: &View<'_>, mut elements: Elements) -> Next {
        match elements.step(view) {
            None => (State::Elements(elements), Some(Step::Wait)),
            Some(Err((at, reason))) => self.broken(at, reason),
            Some(Ok((key, element, after))) => {
                let value = view.tools.element(&self.name, &key, &element);
                self.arguments.insert(key, value);
                (State::Parameters(after), None)
            }
        }
    }

    fn json_tag(&mut self, view: &View<'_>, mut tag: TagScan) -> Next {
        match tag.step(view, self.form.sharp) {
            TagEnd::More => (State::JsonTag(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => self.broken(at, Malformed::Syntax),
            TagEnd::Text(_, after) => {
                let at = view.skip_blank(after);
                match view.bytes().get(at) {
                    Some(b'{') => (State::Json(Scan::new(at)), None),
                    Some(_) => self.broken(at, Malformed::Syntax),
                    None => (State::JsonTag(tag), Some(Step::Wait)),
                }
            }
        }
    }

    fn json(&mut self, view: &View<'_>, mut scan: Scan) -> Next {
        match scan.advance(view) {
            Scanned::More => (State::Json(scan), Some(Step::Wait)),
            Scanned::Bad(reason) => self.broken(scan.start, reason),
            Scanned::Value(end) => match serde_json::from_str(&view.text[scan.start..end]) {
                Ok(arguments) => {
                    self.arguments = arguments;
                    (State::JsonEnd(end), None)
                }
                Err(_) => self.broken(end, Malformed::Syntax),
            },
        }
    }

    fn json_end(&mut self, view: &View<'_>, end: usize) -> Next {
        let close = self.form.json.close;
        let at = view.skip_blank(end);
        match view.here(at, close) {
            Here::Yes => (State::Parameters(at + close.len()), None),
            Here::No if !view.is_cut_short(at, &[close]) => self.broken(at, Malformed::Syntax),
            Here::NotYet | Here::No => (State::JsonEnd(end), Some(Step::Wait)),
        }
    }
}

impl Machine for InvokeCalls {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let state = std::mem::replace(&mut self.state, State::Between(self.body));
            let (state, step) = self.next(view, state);
            self.state = state;
            if let Some(step) = step {
                return step;
            }
        }
    }
}

/// Some models write all arguments as one object, under a name that the tool does not have.
fn unwrapped(view: &View<'_>, tool: &str, mut arguments: Map<String, Value>) -> Map<String, Value> {
    let [(key, Value::Object(_))] = arguments.iter().collect::<Vec<_>>()[..] else { return arguments };
    if !["arguments", "input"].contains(&&**key) || view.tools.takes(tool, key) != Some(false) {
        return arguments;
    }
    match arguments.values_mut().next().map(Value::take) {
        Some(Value::Object(inner)) => inner,
        _ => arguments,
    }
}

/// The value of an attribute in an opening tag: ` a="x" b='y' c=z`, with any of the quotes or none.
fn attribute<'a>(tag: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = tag;
    loop {
        // A tag's name ends with a blank.
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
