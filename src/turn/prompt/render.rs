//! Renders turns into leaves with ids, and plans the changes that the next prompt makes.

use std::collections::BTreeMap;

use super::family::{Family, ResultText, Results};
use super::sheet::Sheet;
use super::{Context, Prefix, Response, WhenInexact, sheet};
use crate::error::{Error, ErrorKind};
use crate::turn::parse::engine::Start;
use crate::types::ids::IdsExact;
use crate::types::tree::{Branch, Leaf, LeafKind, Role};

/// The changes that the next prompt makes to the context.
pub(super) struct Plan {
    /// New or changed turns. The last one is the model's next turn.
    pub(super) turns: BTreeMap<usize, Branch>,
    pub(super) response: Response,
    pub(super) prefix: Prefix,
}

impl Context {
    pub(super) fn plan(&self) -> Result<Plan, Error> {
        if self.is_open {
            return Err(Error::invalid(
                "the last response has not ended: add it, end it or discard it first",
            ));
        }
        if self.turns.last().is_none_or(|turn| turn.role == Role::Assistant) {
            return Err(Error::invalid("there is nothing to respond to: add a turn first"));
        }
        let mut turns = BTreeMap::new();
        let mut prefix = Prefix::Kept;
        // This is the turn that is not closed yet, or `None` after a response was discarded.
        let unclosed = self.rendered.checked_sub(1).filter(|n| self.turns.len() > *n + 1);
        let unclosed = unclosed.filter(|n| self.responses.contains_key(n));
        if let Some(n) = unclosed.filter(|n| !self.is_exact(*n)) {
            match self.when_inexact {
                WhenInexact::Take => {}
                WhenInexact::Refuse => return Err(self.inexact(n)),
                WhenInexact::Reencode => {
                    turns.insert(n, self.reencoded(n, None)?);
                    prefix = Prefix::Reencoded { turn: n };
                }
            }
        }
        for n in self.thoughts_to_drop() {
            let none = || self.unsupported("does not define how old reasoning is dropped");
            let instead = self.family().dropped_reasoning.as_ref().ok_or_else(none)?;
            turns.insert(n, self.reencoded(n, Some(instead))?);
            let first = match prefix {
                Prefix::ReasoningDropped { turn } | Prefix::Reencoded { turn } => turn,
                Prefix::Kept => n,
            };
            if n <= first {
                prefix = Prefix::ReasoningDropped { turn: n };
            }
        }
        let response = self.render(unclosed, &mut turns)?;
        Ok(Plan { turns, response, prefix })
    }

    fn family(&self) -> &'static Family {
        self.format.family()
    }

    fn sheet(&self) -> Sheet<'_> {
        Sheet::new(&*self.encoder, self.family())
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("the chat format {} {what}", self.format.name()))
    }

    fn is_exact(&self, turn: usize) -> bool {
        let ids = self.responses.get(&turn).map(|response| response.ids);
        !matches!(ids, Some(IdsExact::No(_))) && self.turns[turn].ids_missing() == 0
    }

    fn inexact(&self, turn: usize) -> Error {
        let why = match self.responses.get(&turn).map(|response| response.ids) {
            Some(IdsExact::No(why)) => why.to_string(),
            _ => format!("{} tokens arrived without an id", self.turns[turn].ids_missing()),
        };
        Error::new(ErrorKind::InexactIds, format!("ids of turn {turn} are missing: {why}"))
    }

    /// Returns the turns of the model whose reasoning must be dropped.
    ///
    /// They are the turns with reasoning before the last user turn.
    fn thoughts_to_drop(&self) -> Vec<usize> {
        let user = self.turns.iter().rposition(|turn| turn.role == Role::User);
        let before = user.filter(|_| !self.keep_reasoning).unwrap_or(0);
        let thinks = |turn: &Branch| turn.leaves.iter().any(|leaf| leaf.kind == LeafKind::Reasoning);
        self.responses.range(..before).map(|(n, _)| *n).filter(|n| thinks(&self.turns[*n])).collect()
    }

    /// Encodes the text of a turn of the model again, and returns the turn with the new ids.
    ///
    /// If `instead` is set, it replaces the reasoning of the turn. Text that the parser read as
    /// text stays text, even if it spells a marker.
    fn reencoded(&self, turn: usize, instead: Option<&str>) -> Result<Branch, Error> {
        let branch = &self.turns[turn];
        let response = self.responses.get(&turn);
        let has_head = response.is_some_and(|response| response.has_head);
        let (head, said) = branch.leaves.split_at(usize::from(has_head).min(branch.leaves.len()));
        let mut sheet = self.sheet();
        let mut sources = Vec::new();
        let mut leaves = Vec::new();
        match instead {
            Some(instead) => {
                sheet.begin(LeafKind::Marker);
                sources.push(None);
                let head = response.map_or("", |response| response.head);
                sheet.template(head)?;
                // A turn that continued after tool results has no header. In this case, no text
                // replaces the reasoning.
                sheet.template(if head.is_empty() { "" } else { instead })?;
            }
            // The prompt that the model answered stays unchanged.
            None => leaves.extend_from_slice(head),
        }
        // If a template replaces reasoning with nothing, it also drops the blanks after the
        // reasoning.
        let mut trims = instead.is_some_and(str::is_empty);
        for leaf in said {
            if instead.is_some() && leaf.kind == LeafKind::Reasoning {
                continue;
            }
            sheet.begin(leaf.kind.clone());
            sources.push(Some(leaf));
            let text = if trims { leaf.text.trim_start() } else { &leaf.text };
            trims = trims && text.is_empty();
            match &leaf.kind {
                LeafKind::Marker => sheet.structured(text, true)?,
                LeafKind::ToolCall(_) | LeafKind::Malformed { .. } => sheet.structured(text, false)?,
                LeafKind::Reasoning => {
                    let [open, inner, close] = sheet::parts(leaf);
                    sheet.structured(open, true)?;
                    sheet.plain(inner);
                    sheet.structured(close, true)?;
                }
                LeafKind::Content | LeafKind::ToolResult { .. } => sheet.plain(text),
            }
        }
        for (mut leaf, source) in sheet.finish()?.into_iter().zip(sources) {
            if let Some(source) = source.filter(|source| source.text == leaf.text) {
                leaf.inner = source.inner.clone();
            }
            if leaf.kind != LeafKind::Marker || !leaf.text.is_empty() {
                leaves.push(leaf);
            }
        }
        let mut new = Branch::new(branch.role);
        new.leaves = leaves;
        Ok(new)
    }

    /// Renders all text after the last response into `turns`.
    ///
    /// The text consists of the end of the response, the turns added after it, and the opening of
    /// the next response.
    fn render(
        &self,
        unclosed: Option<usize>,
        turns: &mut BTreeMap<usize, Branch>,
    ) -> Result<Response, Error> {
        let mut sheet = self.sheet();
        // The position of each turn, and the number of leaves up to its end.
        let mut shares = Vec::new();
        if let Some(n) = unclosed {
            sheet.begin(LeafKind::Marker);
            let turn = turns.get(&n).unwrap_or(&self.turns[n]);
            self.close(&mut sheet, n, turn)?;
            shares.push((n, sheet.leaves.len()));
        }
        for n in self.rendered..self.turns.len() {
            sheet.begin(LeafKind::Marker);
            self.turn(&mut sheet, n)?;
            shares.push((n, sheet.leaves.len()));
        }
        sheet.begin(LeafKind::Marker);
        let mut response = self.opening(&mut sheet)?;
        shares.push((self.turns.len(), sheet.leaves.len()));

        let mut leaves = sheet.finish()?.into_iter();
        let mut taken = 0;
        for (n, until) in shares {
            let own = leaves.by_ref().take(until - taken);
            let own = own.filter(|leaf| leaf.kind != LeafKind::Marker || !leaf.text.is_empty());
            taken = until;
            let branch = turns.entry(n).or_insert_with(|| match self.turns.get(n) {
                None => Branch::new(Role::Assistant),
                Some(turn) if n < self.rendered => turn.clone(),
                Some(turn) => Branch::new(turn.role),
            });
            branch.leaves.extend(own);
            response.has_head = !branch.leaves.is_empty();
        }
        Ok(response)
    }

    /// Writes the missing end of the model's turn.
    fn close(&self, sheet: &mut Sheet<'_>, n: usize, turn: &Branch) -> Result<(), Error> {
        let family = self.family();
        let before_results = self.turns.get(n + 1).is_some_and(|next| next.role == Role::Tool);
        let close = family.close(before_results);
        let sampled = turn.ids().last();
        let is = |names: &[String]| sampled.is_some() && names.iter().any(|name| sheet.id(name) == sampled);
        let (ended, stopped) = (is(&family.ends), is(&family.stops));
        let reasoning = self.has_open_thinking(n, turn);
        sheet.sampled = if ended { sheet.first_id(close).or(sampled) } else { sampled };
        if let (Some(think), true, false) = (&family.reasoning, reasoning, ended || stopped) {
            sheet.template(&think.close)?;
        }
        sheet.template(close)
    }

    fn has_open_thinking(&self, n: usize, turn: &Branch) -> bool {
        let Some(response) = self.responses.get(&n) else { return false };
        match turn.leaves.get(usize::from(response.has_head)..).and_then(<[Leaf]>::last) {
            None => response.start == Start::Reasoning,
            // A closing marker may have arrived as an id without text. The text then does not
            // contain the marker, but the marker must not be written again.
            Some(leaf) => leaf.kind == LeafKind::Reasoning && leaf.inner.end == leaf.text.len(),
        }
    }

    /// Writes a turn that the caller added.
    fn turn(&self, sheet: &mut Sheet<'_>, n: usize) -> Result<(), Error> {
        let (family, turn) = (self.family(), &self.turns[n]);
        let think = if self.reasoning { &family.system_reasoning_on } else { "" };
        if n == 0 {
            sheet.template(&family.begin)?;
            if let (false, Role::User, Some(system)) = (think.is_empty(), turn.role, &family.system) {
                for piece in [&system.open, think, &system.close] {
                    sheet.template(piece)?;
                }
            }
        }
        let text = turn.text();
        match turn.role {
            Role::Tool => {
                let none = || self.unsupported("has no tool results");
                self.results(sheet, family.results.as_ref().ok_or_else(none)?, turn)?;
            }
            Role::System => {
                let is_second = self.turns[..n].iter().any(|turn| turn.role == Role::System);
                let second = family.developer.as_ref().filter(|_| is_second);
                let none = || self.unsupported("has no system turn");
                let system = second.or(family.system.as_ref()).ok_or_else(none)?;
                sheet.template(&system.open)?;
                if !is_second {
                    sheet.template(think)?;
                }
                sheet.begin(LeafKind::Content);
                sheet.plain(&text);
                sheet.template(&system.close)?;
            }
            Role::User | Role::Assistant => {
                sheet.template(&family.user.open)?;
                sheet.begin(LeafKind::Content);
                sheet.plain(&text);
                if !self.reasoning && !text.ends_with(&family.user_reasoning_off) {
                    sheet.template(&family.user_reasoning_off)?;
                }
                sheet.template(&family.user.close)?;
            }
        }
        Ok(())
    }

    fn results(&self, sheet: &mut Sheet<'_>, results: &Results, turn: &Branch) -> Result<(), Error> {
        let Results { all, each, between, text } = results;
        sheet.template(&all.open)?;
        for (n, leaf) in turn.leaves.iter().enumerate() {
            let LeafKind::ToolResult { call_id, name } = &leaf.kind else { continue };
            if n > 0 {
                let none = || self.unsupported("does not define how several results are written");
                sheet.template(between.as_ref().ok_or_else(none)?)?;
            }
            fill(sheet, &each.open, call_id, name)?;
            sheet.begin(leaf.kind.clone());
            let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(&leaf.text).is_ok();
            match text {
                ResultText::JsonString => sheet.plain(&json_string(&leaf.text)),
                ResultText::Json if !is_json() => sheet.plain(&json_string(&leaf.text)),
                ResultText::Json | ResultText::AsIs => sheet.plain(&leaf.text),
            }
            fill(sheet, &each.close, call_id, name)?;
        }
        sheet.template(&all.close)
    }

    /// Writes the opening of the model's next turn.
    fn opening(&self, sheet: &mut Sheet<'_>) -> Result<Response, Error> {
        let family = self.family();
        let after_results = self.turns.last().is_some_and(|turn| turn.role == Role::Tool);
        let next = family.next(after_results);
        let opener = match &next.reasoning_off {
            _ if self.reasoning => &next.reasoning_on,
            Some(off) => off,
            None => return Err(self.unsupported("does not define how reasoning is turned off")),
        };
        sheet.template(&next.head)?;
        sheet.template(opener)?;
        let opens = family.reasoning.as_ref().is_some_and(|think| opener.trim_end().ends_with(&think.open));
        let start = if opens { Start::Reasoning } else { Start::Content };
        Ok(Response { head: &next.head, start, has_head: false, ids: IdsExact::Unknown })
    }
}

/// Writes a piece of the template, and fills in the id and the name of the call.
///
/// The id and the name are written as plain text, because the model wrote them.
fn fill(sheet: &mut Sheet<'_>, template: &str, id: &str, name: &str) -> Result<(), Error> {
    let id_json = json_string(id);
    let mut rest = template;
    loop {
        let values = [("{name}", name), ("{id}", id), ("{id:json}", &id_json)];
        let places = values.iter().filter_map(|(key, value)| Some((rest.find(key)?, key.len(), *value)));
        let Some((at, len, value)) = places.min_by_key(|(at, ..)| *at) else { break };
        sheet.template(&rest[..at])?;
        sheet.plain(value);
        rest = &rest[at + len..];
    }
    sheet.template(rest)
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
