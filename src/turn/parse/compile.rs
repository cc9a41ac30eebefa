//! Compiles a record into a table, and its calls into machines.

use std::sync::Arc;

use super::machine::{Bounds, Machine, RawLeaf, Step, Then};
use super::machines::bare_json::BareJson;
use super::machines::headed::{HeadedCall, HeadedForm, Header, Section};
use super::machines::invoke::{InvokeCalls, InvokeForm};
use super::machines::json::{JsonCalls, JsonForm};
use super::machines::pairs::{PairCalls, PairForm};
use super::machines::python::{PythonCalls, PythonForm};
use super::machines::tagged::{FUNCTION, FUNCTION_END, TaggedCalls, TaggedForm};
use super::marker::{List, Marker, Reasoning, Tag};
use super::raw::RawForm;
use super::record;
use super::record::{Inside, Record};
use super::table::{Body, Region, Table};
use super::view::View;

impl Record {
    /// Returns the table that the record describes.
    pub(super) fn compile(&self) -> Table {
        let reasoning = self.think.as_ref().map(|think| Reasoning {
            open: think.open.clone(),
            close: think.close.clone(),
            label: think.label.clone().unwrap_or_default(),
            answer: think.answer.clone(),
        });
        let mut regions = Regions {
            default_stops: self.default_stops(),
            reasoning: reasoning.iter().flat_map(|it| [&it.open, &it.close]).cloned().collect(),
            calls: Vec::new(),
            alone: Vec::new(),
            inner: Vec::new(),
        };
        for call in &self.calls {
            let body = regions.body(&call.open, &call.inside);
            regions.calls.push(Region { open: call.open.clone(), body });
        }
        let bare = self.bare.as_ref().map(|bare| regions.body(&Marker::default(), bare));
        let Regions { mut calls, alone, inner, .. } = regions;
        calls.extend(alone);
        Table {
            name: self.name.clone(),
            reasoning: reasoning.map(Arc::new),
            calls,
            frames: self.frames.clone(),
            ends: self.ends.clone(),
            inner: self.inner.and(&inner),
            bare,
            signs: self.signs.clone(),
            in_template: self.in_template.clone().unwrap_or_default(),
        }
    }
}

/// The regions compiled so far.
struct Regions {
    /// The stops of a region that does not list its own stops.
    default_stops: List,
    /// The markers of reasoning.
    reasoning: List,
    calls: Vec<Region>,
    /// The regions of calls that have no opener.
    alone: Vec<Region>,
    /// The markers inside regions.
    inner: Vec<Marker>,
}

impl Regions {
    /// Returns the function that creates the machine for this region.
    ///
    /// `open` is the opener of the region. It is empty if a turn begins with the region and the
    /// region has no opener.
    fn body(&mut self, open: &Marker, inside: &Inside) -> Body {
        match inside {
            Inside::Json(json) => {
                let bounds = self.bounds(json.close.as_ref(), json.stops.as_ref());
                let form = json_form(&json.keys, bounds, false);
                let first = usize::from(open.ends_with(['{', '[']));
                Arc::new(move |_, body| Box::new(JsonCalls::new(form.clone(), body - first)))
            }
            Inside::BareJson(json) => {
                let form = json_form(&json.keys, self.bounds(None, json.stops.as_ref()), true);
                let opened = !open.is_empty();
                Arc::new(move |_, body| Box::new(BareJson::new(form.clone(), body, opened)))
            }
            Inside::Tagged(tagged) => self.tagged(open, tagged),
            Inside::Headed(headed) => self.headed(headed),
            Inside::Section(section) => {
                let followed_by = section.followed_by.clone();
                Arc::new(move |open, body| Box::new(Section::new(open, body, followed_by.clone())))
            }
            Inside::Python(python) => {
                let bounds = self.bounds(python.close.as_ref(), python.stops.as_ref());
                let json = python.json.as_ref().map(|keys| json_form(keys, bounds.clone(), false));
                let form = Arc::new(PythonForm { bounds, json });
                let first = usize::from(open.ends_with('['));
                Arc::new(move |_, body| Box::new(PythonCalls::new(form.clone(), body - first)))
            }
            Inside::Invoke(invoke) => self.invoke(open, invoke),
            Inside::Pairs(pairs) => self.pairs(pairs),
            Inside::Reasoning(reasoning) => {
                let (open, close) = (open.clone(), reasoning.close.clone());
                let (label, answer) = (Marker::default(), List::default());
                let reasoning = Arc::new(Reasoning { open, close, label, answer });
                Arc::new(move |_, body| Box::new(OtherReasoning { body, reasoning: reasoning.clone() }))
            }
        }
    }

    fn tagged(&mut self, open: &Marker, tagged: &record::Tagged) -> Body {
        let bounds = self.bounds(Some(&tagged.close), tagged.stops.as_ref());
        let function = Marker::from(FUNCTION);
        let stops = [&function].into_iter().chain(&*bounds.stops).cloned().collect();
        let form = Arc::new(TaggedForm {
            alone: Bounds::new(FUNCTION_END.into(), stops),
            open: open.clone(),
            framed: tagged.framed,
            json: tagged.json.as_ref().map(|keys| json_form(keys, bounds.clone(), false)),
            bounds,
        });
        if tagged.alone {
            let form = form.clone();
            let body: Body = Arc::new(move |open, _| Box::new(TaggedCalls::new(form.clone(), open, false)));
            self.alone.push(Region { open: function, body });
        } else {
            self.inner.push(function);
        }
        Arc::new(move |_, body| Box::new(TaggedCalls::new(form.clone(), body, true)))
    }

    fn headed(&mut self, headed: &record::Headed) -> Body {
        let bounds = self.bounds(headed.close.as_ref(), headed.stops.as_ref());
        let form = Arc::new(HeadedForm {
            marks: headed.marks.clone(),
            fence: headed.fence.clone().unwrap_or_default(),
            header: match &headed.header {
                record::Header::Id => Header::Id,
                record::Header::Last => Header::Last,
                record::Header::First { id_mark } => {
                    Header::First { id_mark: id_mark.clone().unwrap_or_default() }
                }
            },
            json: headed.json.as_ref().map(|keys| json_form(keys, bounds.clone(), false)),
            bounds,
        });
        Arc::new(move |_, body| Box::new(HeadedCall::new(form.clone(), body)))
    }

    fn invoke(&mut self, open: &Marker, invoke: &record::Invoke) -> Body {
        let Bounds { close, stops, .. } = self.bounds(Some(&invoke.close), invoke.stops.as_ref());
        let record::Parameter { open: parameter, close: parameter_end, key } = &invoke.parameter;
        let parameter = Tag { open: parameter.clone(), close: parameter_end.clone().unwrap_or_default() };
        let call = invoke.call.clone();
        let before_call = stops.and([&call.open]);
        let form = Arc::new(InvokeForm {
            region: Tag { open: open.clone(), close },
            lead: invoke.lead.clone(),
            has_tail: invoke.tail.is_some(),
            raw: RawForm::new(parameter.close.clone(), call.close.clone(), stops.and(&invoke.tail)),
            bounds: Bounds::new(invoke.tail.clone().unwrap_or_else(|| call.close.clone()), stops),
            call,
            parameter,
            sharp: invoke.sharp.clone(),
            name: invoke.name.clone(),
            key: key.clone().unwrap_or_default(),
            values: invoke.values,
            json: invoke.json.clone().unwrap_or_default(),
            after_call: before_call.and(&*self.reasoning),
            before_call,
        });
        if invoke.alone {
            let open = form.lead.first().unwrap_or(&form.call.open).clone();
            let form = form.clone();
            let body: Body = Arc::new(move |open, _| Box::new(InvokeCalls::new(form.clone(), open, false)));
            self.alone.push(Region { open, body });
        }
        Arc::new(move |_, body| Box::new(InvokeCalls::new(form.clone(), body, true)))
    }

    fn pairs(&mut self, pairs: &record::Pairs) -> Body {
        let bounds = self.bounds(Some(&pairs.close), pairs.stops.as_ref());
        let (key, value) = (&pairs.key, &pairs.value);
        self.inner.extend([&key.open, &key.close, &value.open, &value.close].map(Marker::clone));
        let values = RawForm::new(value.close.clone(), bounds.close.clone(), bounds.stops.clone());
        let form = Arc::new(PairForm { bounds, key: key.clone(), value: value.open.clone(), values });
        Arc::new(move |_, body| Box::new(PairCalls::new(form.clone(), body)))
    }

    fn bounds(&mut self, close: Option<&Marker>, stops: Option<&List>) -> Bounds {
        self.inner.extend(close.cloned());
        Bounds::new(close.cloned().unwrap_or_default(), stops.unwrap_or(&self.default_stops).clone())
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

fn json_form(keys: &record::Keys, bounds: Bounds, needs_arguments: bool) -> Arc<JsonForm> {
    let record::Keys { name, arguments, id } = keys.clone();
    Arc::new(JsonForm { bounds, name, arguments, id, needs_arguments })
}
