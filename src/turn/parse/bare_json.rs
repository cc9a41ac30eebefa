//! Calls written as JSON objects without an end marker, and mostly without an opener: Llama 3.

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::json::{JsonForm, Scan, Scanned};
use super::machine::{Machine, Outcome, Seek, Step};
use super::view::{Here, RegionEnd, View};

/// Reads objects that `;` stands between. One that is no call is ordinary text, unless a marker said that a
/// call follows.
#[derive(Debug)]
pub(super) struct BareJson {
    form: &'static JsonForm,
    /// After the opener, or the end of the last call.
    body: usize,
    /// The opener was there.
    opened: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Object(Scan),
    /// After a call: here is its end.
    After(usize),
    Seek(Seek),
}

impl BareJson {
    pub(super) fn new(form: &'static JsonForm, body: usize, opened: bool) -> Self {
        Self { form, body, opened, state: State::Open }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        match view.bytes().get(at) {
            Some(b'{') => self.state = State::Object(Scan::new(at)),
            None if view.end.is_none() || (self.opened && view.end == Some(RegionEnd::Cut)) => {
                return Some(Step::Wait);
            }
            _ => return Some(self.content()),
        }
        None
    }

    fn object(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Object(scan) = &mut self.state else { return None };
        match (scan.advance(view), self.opened) {
            (Scanned::More, false) if view.end.is_some() && !self.form.begins(&view.text[scan.start..]) => {
                Some(self.content())
            }
            (Scanned::More, _) => Some(Step::Wait),
            (Scanned::Value(end), opened) => match (self.form.call(&view.text[scan.start..end]), opened) {
                (Ok(call), _) => {
                    (self.body, self.opened, self.state) = (end, false, State::After(end));
                    Some(Step::Leaf { until: end, leaf: Outcome::Call(call) })
                }
                (Err(reason), true) => Some(Step::leave(end, Outcome::Malformed(reason))),
                (Err(_), false) => Some(self.content()),
            },
            (Scanned::Bad(_), false) => Some(self.content()),
            (Scanned::Bad(reason), true) => {
                self.state = State::Seek(Seek::broken(self.body, reason));
                None
            }
        }
    }

    /// After `;` the next call may stand. Before an opener or an end of the turn, `;` is no text either.
    fn after(&mut self, view: &View<'_>, end: usize) -> Option<Step> {
        let at = view.skip_blank(end);
        match view.bytes().get(at) {
            Some(b';') => {}
            None if view.end.is_none() => return Some(Step::Wait),
            _ => return Some(Step::leave(end, Outcome::Marker)),
        }
        let at = view.skip_blank(at + 1);
        match view.bytes().get(at) {
            Some(b'{') => {
                self.state = State::Object(Scan::new(at));
                return None;
            }
            None if view.end.is_none() => return Some(Step::Wait),
            None => return Some(Step::leave(at, Outcome::Marker)),
            Some(_) => {}
        }
        let mut here = self.form.bounds.stops.iter().map(|stop| view.here(at, stop));
        Some(match here.find(|here| *here != Here::No) {
            Some(Here::Yes) => Step::leave(at, Outcome::Marker),
            Some(_) => Step::Wait,
            None => self.content(),
        })
    }

    fn content(&self) -> Step {
        Step::leave(self.body, Outcome::Content)
    }
}

impl Machine for BareJson {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let step = match &mut self.state {
                State::Open => self.open(view),
                State::Object(_) => self.object(view),
                State::After(end) => {
                    let end = *end;
                    self.after(view, end)
                }
                State::Seek(seek) => Some(seek.step(view, self.form.bounds)),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }
}

impl JsonForm {
    /// Whether an object that was cut off can have been a call: it has a name, and nothing that a call has not.
    fn begins(&self, object: &str) -> bool {
        let mut keys = Keys::default();
        // It fails at the end of the text, and has seen the keys before.
        let _ = serde_json::Deserializer::from_str(object).deserialize_map(&mut keys);
        let is_of_call = |key: &String| {
            let known = [self.name, self.arguments, self.id, &["type"]];
            known.iter().any(|keys| keys.contains(&key.as_str()))
        };
        keys.0.iter().any(|key| self.name.contains(&key.as_str())) && keys.0.iter().all(is_of_call)
    }
}

/// The keys of an object, up to where it does not parse.
#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Visitor<'de> for &mut Keys {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.push(key);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}
