//! Reads calls written as JSON objects without an end marker, as in Llama 3.
//!
//! Most of these calls have no opener.

use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::json::JsonForm;
use crate::turn::parse::json_scan::{JsonScan, Scanned};
use crate::turn::parse::machine::{Machine, RawLeaf, Recovery, Step};
use crate::turn::parse::marker::List;
use crate::turn::parse::view::{Match, RegionEnd, View};

/// Reads objects that are separated by `;`.
///
/// If an object is not a call and has no opener, the object is ordinary text.
#[derive(Debug)]
pub(crate) struct BareJson {
    form: Arc<JsonForm>,
    /// The offset after the opener or after the last call.
    body: usize,
    /// `true` if the region has an opener.
    opened: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Object(JsonScan),
    /// Reads the text after a call, which ends at this offset.
    After(usize),
    Recovery(Recovery),
}

impl BareJson {
    pub(crate) fn new(form: Arc<JsonForm>, body: usize, opened: bool) -> Self {
        Self { form, body, opened, state: State::Open }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        match view.bytes().get(at) {
            Some(b'{') => self.state = State::Object(JsonScan::new(at)),
            None if view.end.is_none() || (self.opened && view.end == Some(RegionEnd::Cut)) => {
                return Some(Step::Wait);
            }
            _ => return Some(Step::content(self.body)),
        }
        None
    }

    fn object(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Object(scan) = &mut self.state else { return None };
        match (scan.advance(view), self.opened) {
            (Scanned::More, false) if view.end.is_some() && !self.form.begins(&view.text[scan.start..]) => {
                Some(Step::content(self.body))
            }
            (Scanned::More, _) => Some(Step::Wait),
            (Scanned::Value(end), opened) => match (self.form.call(&view.text[scan.start..end]), opened) {
                (Ok(call), _) => {
                    (self.body, self.opened, self.state) = (end, false, State::After(end));
                    Some(Step::Leaf { until: end, leaf: RawLeaf::Call(call) })
                }
                (Err(reason), true) => Some(Step::malformed(end, reason)),
                (Err(_), false) => Some(Step::content(self.body)),
            },
            (Scanned::Bad(_), false) => Some(Step::content(self.body)),
            (Scanned::Bad(reason), true) => {
                self.state = State::Recovery(Recovery::broken(self.body, reason));
                None
            }
        }
    }

    /// Reads the text after a call.
    ///
    /// The next call may follow a `;`. If an opener or an end-of-turn marker follows the `;`, the
    /// `;` is not content.
    fn after(&mut self, view: &View<'_>, end: usize) -> Option<Step> {
        let at = view.skip_blank(end);
        match view.bytes().get(at) {
            Some(b';') => {}
            None if view.end.is_none() => return Some(Step::Wait),
            _ => return Some(Step::marker(end)),
        }
        let at = view.skip_blank(at + 1);
        match view.bytes().get(at) {
            Some(b'{') => {
                self.state = State::Object(JsonScan::new(at));
                return None;
            }
            None if view.end.is_none() => return Some(Step::Wait),
            None => return Some(Step::marker(at)),
            Some(_) => {}
        }
        let mut stops = self.form.bounds.stops.iter().map(|stop| view.here(at, stop));
        Some(match stops.find(|stop| *stop != Match::No) {
            Some(Match::Yes) => Step::marker(at),
            Some(_) => Step::Wait,
            None => Step::content(self.body),
        })
    }
}

impl Machine for BareJson {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Open => self.open(view),
            State::Object(_) => self.object(view),
            State::After(end) => self.after(view, end),
            State::Recovery(ref mut recovery) => Some(recovery.step(view, &self.form.bounds)),
        }
    }
}

impl JsonForm {
    /// Returns whether an object that was cut off may be a call.
    ///
    /// The object may be a call if it has a name and all its keys can be keys of a call.
    fn begins(&self, object: &str) -> bool {
        let mut keys = Keys::default();
        // Parsing fails at the end of the text, but the keys before the end are found.
        let _ = serde_json::Deserializer::from_str(object).deserialize_map(&mut keys);
        let super::json::Keys { name, arguments, id } = &self.keys;
        let contains = |keys: &List, key: &str| keys.iter().any(|known| **known == *key);
        let is_of_call =
            |key: &String| key == "type" || [name, arguments, id].iter().any(|keys| contains(keys, key));
        keys.0.iter().any(|key| contains(name, key)) && keys.0.iter().all(is_of_call)
    }
}

/// The keys of an object, up to the position where the object becomes invalid.
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
