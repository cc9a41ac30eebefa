//! A record made into a table, and its calls into machines.
//!
//! The markers of the parser are `&'static str`, so that no machine needs a lifetime or a counter. What is made of a
//! record is therefore kept as long as the program; [`Dialect::from_json`](super::dialect::Dialect::from_json) bounds how much.

use super::bare_json::BareJson;
use super::dialect::{Body, Call, Table, Think};
use super::headed::{HeadedCall, HeadedForm, Header, Section};
use super::invoke::{InvokeCalls, InvokeForm, Tag};
use super::json::{JsonCalls, JsonForm};
use super::machine::{Bounds, Machine, Outcome, Step, Then};
use super::pairs::{PairCalls, PairForm};
use super::python::{PythonCalls, PythonForm};
use super::raw::RawForm;
use super::record;
use super::record::{Inside, List, Marker, Record};
use super::tagged::{FUNCTION, FUNCTION_END, TaggedCalls, TaggedForm};
use super::view::View;

impl Record {
    /// The table that the record is.
    pub(super) fn keep(&self) -> &'static Table {
        let think = self.think.as_ref().map(|think| Think {
            open: text(&think.open),
            close: text(&think.close),
            label: text_or_none(think.label.as_ref()),
            answer: list(&think.answer),
        });
        let reasoning = think.as_ref().map_or(Vec::new(), |think| vec![think.open, think.close]);
        let mut regions = Regions {
            default_stops: self.default_stops(),
            stops: None,
            think: reasoning,
            calls: Vec::new(),
            alone: Vec::new(),
            inner: Vec::new(),
        };
        for call in &self.calls {
            regions.add(text(&call.open), &call.inside);
        }
        let bare = self.bare.as_ref().map(|bare| regions.body("", bare));
        let Regions { mut calls, alone, inner, .. } = regions;
        calls.extend(alone);
        let inner: Vec<_> = self.inner.iter().map(text).chain(inner).collect();
        keep(Table {
            name: text(&self.name),
            think,
            calls: calls.leak(),
            frames: list(&self.frames),
            ends: list(&self.ends),
            inner: inner.leak(),
            bare,
            signs: list(&self.signs),
            in_template: text_or_none(self.in_template.as_ref()),
        })
    }
}

/// The calls as far as they are made.
struct Regions {
    /// Where a region does not say its own; and the same, kept once one needs it. What nothing points to would be a leak.
    default_stops: List,
    stops: Option<&'static [&'static str]>,
    /// The markers of reasoning.
    think: Vec<&'static str>,
    calls: Vec<Call>,
    /// Those that lack their region's opener.
    alone: Vec<Call>,
    /// Markers within regions.
    inner: Vec<&'static str>,
}

impl Regions {
    fn add(&mut self, open: &'static str, inside: &Inside) {
        let body = self.body(open, inside);
        self.calls.push(Call { open, body });
    }

    /// What reads such a region. `open` is its opener, empty at the start of a turn that has none.
    fn body(&mut self, open: &'static str, inside: &Inside) -> Body {
        match inside {
            Inside::Json(json) => {
                let bounds = self.bounds(json.close.as_ref(), json.stops.as_ref());
                let form = json_form(&json.keys, bounds, false);
                let first = usize::from(open.ends_with(['{', '[']));
                body(move |_, body| Box::new(JsonCalls::new(form, body - first)))
            }
            Inside::BareJson(json) => {
                let form = json_form(&json.keys, self.bounds(None, json.stops.as_ref()), true);
                let opened = !open.is_empty();
                body(move |_, body| Box::new(BareJson::new(form, body, opened)))
            }
            Inside::Tagged(tagged) => self.tagged(open, tagged),
            Inside::Headed(headed) => self.headed(headed),
            Inside::Section(section) => {
                let followed_by = list(&section.followed_by);
                body(move |open, body| Box::new(Section::new(open, body, followed_by)))
            }
            Inside::Python(python) => {
                let bounds = self.bounds(python.close.as_ref(), python.stops.as_ref());
                let json = python.json.as_ref().map(|keys| json_form(keys, bounds, false));
                let form = keep(PythonForm { bounds, json });
                let first = usize::from(open.ends_with('['));
                body(move |_, body| Box::new(PythonCalls::new(form, body - first)))
            }
            Inside::Invoke(invoke) => self.invoke(open, invoke),
            Inside::Pairs(pairs) => self.pairs(pairs),
            Inside::Reasoning(reasoning) => {
                let think = keep(Think { open, close: text(&reasoning.close), label: "", answer: &[] });
                body(move |_, body| Box::new(Thoughts { body, think }))
            }
        }
    }

    fn tagged(&mut self, open: &'static str, tagged: &record::Tagged) -> Body {
        let bounds = self.bounds(Some(&tagged.close), tagged.stops.as_ref());
        let stops = [&[FUNCTION], bounds.stops].concat().leak();
        let form = keep(TaggedForm {
            bounds,
            alone: Bounds { close: FUNCTION_END, stops },
            open,
            framed: tagged.framed,
            json: tagged.json.as_ref().map(|keys| json_form(keys, bounds, false)),
        });
        if tagged.alone {
            let body = body(move |open, _| Box::new(TaggedCalls::new(form, open, false)));
            self.alone.push(Call { open: FUNCTION, body });
        } else {
            self.inner.push(FUNCTION);
        }
        body(move |_, body| Box::new(TaggedCalls::new(form, body, true)))
    }

    fn headed(&mut self, headed: &record::Headed) -> Body {
        let bounds = self.bounds(headed.close.as_ref(), headed.stops.as_ref());
        let marks = list(&headed.marks);
        let form = keep(HeadedForm {
            bounds,
            marks,
            fence: text_or_none(headed.fence.as_ref()),
            header: match &headed.header {
                record::Header::Id => Header::Id,
                record::Header::Last => Header::Last,
                record::Header::First { id_mark } => {
                    Header::First { id_mark: text_or_none(id_mark.as_ref()) }
                }
            },
            json: headed.json.as_ref().map(|keys| json_form(keys, bounds, false)),
        });
        body(move |_, body| Box::new(HeadedCall::new(form, body)))
    }

    fn invoke(&mut self, open: &'static str, invoke: &record::Invoke) -> Body {
        let Bounds { close, stops } = self.bounds(Some(&invoke.close), invoke.stops.as_ref());
        let parameter = &invoke.parameter;
        let form = keep(InvokeForm {
            region: Tag { open, close },
            lead: list(&invoke.lead),
            call: tag(&invoke.call),
            tail: text_or_none(invoke.tail.as_ref()),
            parameter: Tag { open: text(&parameter.open), close: text_or_none(parameter.close.as_ref()) },
            sharp: text(&invoke.sharp),
            name: text(&invoke.name),
            key: text_or_none(parameter.key.as_ref()),
            values: invoke.values,
            json: invoke.json.as_ref().map_or(Tag { open: "", close: "" }, tag),
            stops,
            think: self.think.clone().leak(),
        });
        if invoke.alone {
            let open = form.lead.first().copied().unwrap_or(form.call.open);
            let body = body(move |open, _| Box::new(InvokeCalls::new(form, open, false)));
            self.alone.push(Call { open, body });
        }
        body(move |_, body| Box::new(InvokeCalls::new(form, body, true)))
    }

    fn pairs(&mut self, pairs: &record::Pairs) -> Body {
        let bounds = self.bounds(Some(&pairs.close), pairs.stops.as_ref());
        let (key, value) = (tag(&pairs.key), tag(&pairs.value));
        self.inner.extend([key.open, key.close, value.open, value.close]);
        let values = RawForm { end: value.close, call_end: bounds.close, tail: "", stops: bounds.stops };
        let form = keep(PairForm { bounds, key, value: value.open, values });
        body(move |_, body| Box::new(PairCalls::new(form, body)))
    }

    fn bounds(&mut self, close: Option<&Marker>, stops: Option<&List>) -> Bounds {
        let close = text_or_none(close);
        if !close.is_empty() {
            self.inner.push(close);
        }
        let stops = match stops {
            Some(stops) => list(stops),
            None => *self.stops.get_or_insert_with(|| list(&self.default_stops)),
        };
        Bounds { close, stops }
    }
}

/// An opener of reasoning that is not the dialect's own.
#[derive(Debug)]
struct Thoughts {
    body: usize,
    think: &'static Think,
}

impl Machine for Thoughts {
    fn step(&mut self, _: &View<'_>) -> Step {
        Step::Leave { until: self.body, leaf: Outcome::Marker, then: Then::Reasoning(self.think) }
    }
}

fn json_form(keys: &record::Keys, bounds: Bounds, needs_arguments: bool) -> &'static JsonForm {
    let record::Keys { name, arguments, id } = keys;
    keep(JsonForm { bounds, name: list(name), arguments: list(arguments), id: list(id), needs_arguments })
}

fn tag(tag: &record::Tag) -> Tag {
    Tag { open: text(&tag.open), close: text(&tag.close) }
}

// Kept as long as the program

fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn text(marker: &Marker) -> &'static str {
    Box::leak(Box::from(marker.as_str()))
}

fn text_or_none(marker: Option<&Marker>) -> &'static str {
    marker.map_or("", text)
}

fn list(list: &List) -> &'static [&'static str] {
    list.iter().map(text).collect::<Vec<_>>().leak()
}

fn body(make: impl Fn(usize, usize) -> Box<dyn Machine> + Send + Sync + 'static) -> Body {
    Box::leak(Box::new(make))
}
