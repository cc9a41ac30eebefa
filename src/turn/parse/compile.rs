//! Converts a record into a table, and the calls of the record into machines.

use std::sync::Arc;

use super::machine::{Bounds, Machine, RawLeaf, Step, Then};
use super::machines::bare_json::BareJson;
use super::machines::headed::{HeadedCall, HeadedForm, Section};
use super::machines::invoke::{Invoke, InvokeCalls, InvokeForm};
use super::machines::json::{JsonCalls, JsonForm, Keys};
use super::machines::pairs::{PairCalls, PairForm};
use super::machines::python::{PythonCalls, PythonForm};
use super::machines::tagged::{FUNCTION, FUNCTION_END, TaggedCalls, TaggedForm};
use super::marker::{List, Marker, Reasoning};
use super::raw::RawForm;
use super::record::{self, Inside, Record};
use super::table::{Body, Region, Table};
use super::view::View;

impl Record {
    /// Returns the table that the record describes.
    pub(super) fn compile(&self) -> Table {
        let reasoning = self.think.clone();
        let mut regions = Regions {
            default_stops: self.default_stops(),
            reasoning: reasoning.iter().flat_map(|it| [&it.open, &it.close]).cloned().collect(),
            alone: Vec::new(),
            inner: Vec::new(),
        };
        let mut calls = Vec::new();
        for record::Call { open, inside } in &self.calls {
            calls.push(Region { open: open.clone(), body: regions.body(open, inside) });
        }
        let bare = self.bare.as_ref().map(|bare| regions.body(&Marker::default(), bare));
        calls.extend(regions.alone);
        Table {
            name: self.name.clone(),
            reasoning: reasoning.map(Arc::new),
            calls,
            frames: self.frames.clone(),
            ends: self.ends.clone(),
            inner: self.inner.and(&regions.inner),
            bare,
            signs: self.signs.clone(),
            in_template: self.in_template.clone().unwrap_or_default(),
        }
    }
}

/// The parts of a table that depend on the regions of calls.
struct Regions {
    /// The stops of each region that does not list its own stops.
    default_stops: List,
    /// The markers of reasoning.
    reasoning: List,
    /// The regions of calls that have no opener.
    alone: Vec<Region>,
    /// The markers inside regions.
    inner: Vec<Marker>,
}

impl Regions {
    /// Returns the function that creates the machine for this region.
    ///
    /// `open` is the opener of the region. It is empty if the region has no opener and the turn
    /// begins with the region.
    fn body(&mut self, open: &Marker, inside: &Inside) -> Body {
        match inside {
            Inside::Json { close, stops, keys } => {
                let form = json_form(keys, self.bounds(close, stops), false);
                let first = usize::from(open.ends_with(['{', '[']));
                Arc::new(move |_, body| Box::new(JsonCalls::new(form.clone(), body - first)))
            }
            Inside::BareJson { stops, keys } => {
                let form = json_form(keys, self.bounds(None, stops), true);
                let opened = !open.is_empty();
                Arc::new(move |_, body| Box::new(BareJson::new(form.clone(), body, opened)))
            }
            Inside::Tagged { close, stops, framed, alone, json } => {
                let bounds = self.bounds(close, stops);
                self.tagged(open.clone(), bounds, *framed, *alone, json.as_ref())
            }
            Inside::Headed { close, stops, marks, fence, header, json } => {
                let bounds = self.bounds(close, stops);
                let form = Arc::new(HeadedForm {
                    marks: marks.clone(),
                    fence: fence.clone().unwrap_or_default(),
                    header: header.clone(),
                    json: json.as_ref().map(|keys| json_form(keys, bounds.clone(), false)),
                    bounds,
                });
                Arc::new(move |_, body| Box::new(HeadedCall::new(form.clone(), body)))
            }
            Inside::Section { followed_by } => {
                let followed_by = followed_by.clone();
                Arc::new(move |open, body| Box::new(Section::new(open, body, followed_by.clone())))
            }
            Inside::Python { close, stops, json } => {
                let bounds = self.bounds(close, stops);
                let json = json.as_ref().map(|keys| json_form(keys, bounds.clone(), false));
                let form = Arc::new(PythonForm { bounds, json });
                let first = usize::from(open.ends_with('['));
                Arc::new(move |_, body| Box::new(PythonCalls::new(form.clone(), body - first)))
            }
            Inside::Invoke(invoke) => self.invoke(invoke),
            Inside::Pairs { close, stops, key, value } => {
                let bounds = self.bounds(close, stops);
                self.inner.extend([&key.open, &key.close, &value.open, &value.close].map(Marker::clone));
                let values = RawForm::new(value.close.clone(), bounds.close.clone(), bounds.stops.clone());
                let form = Arc::new(PairForm { bounds, key: key.clone(), value: value.open.clone(), values });
                Arc::new(move |_, body| Box::new(PairCalls::new(form.clone(), body)))
            }
            Inside::Reasoning { close } => {
                let (open, close) = (open.clone(), close.clone());
                let reasoning = Arc::new(Reasoning { open, close, label: None, answer: List::default() });
                Arc::new(move |_, body| Box::new(OtherReasoning { body, reasoning: reasoning.clone() }))
            }
        }
    }

    fn tagged(
        &mut self,
        open: Marker,
        bounds: Bounds,
        framed: bool,
        alone: bool,
        json: Option<&Keys>,
    ) -> Body {
        let function = Marker::from(FUNCTION);
        let stops = [&function].into_iter().chain(&*bounds.stops).cloned().collect();
        let json = json.map(|keys| json_form(keys, bounds.clone(), false));
        let alone_bounds = Bounds::new(FUNCTION_END.into(), stops);
        let form = Arc::new(TaggedForm { alone: alone_bounds, open, framed, json, bounds });
        if alone {
            let form = form.clone();
            let body: Body = Arc::new(move |open, _| Box::new(TaggedCalls::new(form.clone(), open, false)));
            self.alone.push(Region { open: function, body });
        } else {
            self.inner.push(function);
        }
        Arc::new(move |_, body| Box::new(TaggedCalls::new(form.clone(), body, true)))
    }

    fn invoke(&mut self, tags: &Invoke) -> Body {
        let Bounds { stops, .. } = self.bounds(&tags.close, &tags.stops);
        let Invoke { call, tail, parameter, .. } = tags;
        let parameter_end = parameter.close.clone().unwrap_or_default();
        let before_call = stops.and([&call.open]);
        let form = Arc::new(InvokeForm {
            tags: tags.clone(),
            raw: RawForm::new(parameter_end, call.close.clone(), stops.and(tail)),
            bounds: Bounds::new(tail.as_ref().unwrap_or(&call.close).clone(), stops),
            after_call: before_call.and(&*self.reasoning),
            before_call,
        });
        if tags.alone {
            let open = tags.lead.first().unwrap_or(&call.open).clone();
            let form = form.clone();
            let body: Body = Arc::new(move |open, _| Box::new(InvokeCalls::new(form.clone(), open, false)));
            self.alone.push(Region { open, body });
        }
        Arc::new(move |_, body| Box::new(InvokeCalls::new(form.clone(), body, true)))
    }

    fn bounds<'a>(&mut self, close: impl Into<Option<&'a Marker>>, stops: &Option<List>) -> Bounds {
        let close = close.into().cloned();
        self.inner.extend(close.clone());
        Bounds::new(close.unwrap_or_default(), stops.as_ref().unwrap_or(&self.default_stops).clone())
    }
}

/// An opener of reasoning in addition to the first opener of the dialect.
#[derive(Debug)]
struct OtherReasoning {
    body: usize,
    reasoning: Arc<Reasoning>,
}

impl Machine for OtherReasoning {
    fn advance(&mut self, _: &View<'_>) -> Option<Step> {
        let then = Then::Reasoning(self.reasoning.clone());
        Some(Step::Leave { until: self.body, leaf: RawLeaf::Marker, then })
    }
}

fn json_form(keys: &Keys, bounds: Bounds, needs_arguments: bool) -> Arc<JsonForm> {
    Arc::new(JsonForm { bounds, keys: keys.clone(), needs_arguments })
}
