//! Counts the tokens and ids of each choice, and compares them with the server's counts.

use std::borrow::Cow;

use super::calls::Calls;
use crate::types::ids::{FinishReason, IdsExact, Inexact, TokenId, Usage};
use crate::types::token::StreamToken;

/// A function that takes the items of a stream, each with the index of its choice.
pub(crate) trait Sink: FnMut(u32, StreamToken) {}

impl<F: FnMut(u32, StreamToken)> Sink for F {}

/// The state of one choice so far.
#[derive(Debug, Default)]
pub(super) struct ChoiceTally {
    /// True if a chunk contained this choice.
    pub(super) begun: bool,
    /// The number of tokens delivered, with or without ids.
    pub(super) tokens: u64,
    /// The number of ids delivered.
    pub(super) ids: u64,
    /// True if text or a piece of a tool call arrived without an id.
    pub(super) has_text_without_id: bool,
    /// True if ids are missing: llama.cpp's `tokens_predicted` was higher than their number.
    pub(super) ran_ahead: bool,
    /// The server's own running count of this choice's tokens.
    pub(super) counted: Option<u64>,
    /// The usage of only this choice. It does not include other choices.
    pub(super) usage: Option<Usage>,
    pub(super) finish: Option<FinishReason>,
    /// True if the last event has arrived, on an endpoint without a terminator.
    ///
    /// For llama.cpp, the last event has `"stop": true`, with or without a finish reason.
    pub(super) stopped: bool,
    /// The tool calls, on a chat endpoint.
    pub(super) calls: Calls,
    /// The text and ids so far, for SGLang. Each event of SGLang repeats them.
    pub(super) so_far: SoFar,
}

/// The text and the ids of a choice that have arrived so far.
#[derive(Debug, Default)]
pub(super) struct SoFar {
    pub(super) ids: Vec<TokenId>,
    pub(super) text: String,
}

impl ChoiceTally {
    /// Delivers the text and the ids of a chunk.
    ///
    /// A token's id is in the item that contains the token's first byte. If one text has several
    /// ids, the text is therefore in the item of the first id. `has_call` is true if the chunk also
    /// contains a piece of a tool call.
    #[inline]
    pub(super) fn hand_out(
        &mut self,
        index: u32,
        reasoning: Cow<'_, str>,
        text: Cow<'_, str>,
        ids: impl IntoIterator<Item = TokenId>,
        has_call: bool,
        sink: &mut impl Sink,
    ) {
        let mut ids = ids.into_iter();
        let mut next = ids.next();
        let is_reasoning = !reasoning.is_empty() && text.is_empty();
        let has_text = !reasoning.is_empty() || !text.is_empty() || has_call;
        self.has_text_without_id |= has_text && next.is_none();
        if !reasoning.is_empty() {
            self.count_token(next);
            sink(index, StreamToken::Reasoning { text: reasoning.into_owned(), id: next });
            next = ids.next();
        }
        if !text.is_empty() {
            self.count_token(next);
            sink(index, StreamToken::Token { text: text.into_owned(), id: next });
            next = ids.next();
        }
        while let Some(id) = next {
            self.count_token(next);
            let (text, id) = (String::new(), Some(id));
            sink(
                index,
                if is_reasoning {
                    StreamToken::Reasoning { text, id }
                } else {
                    StreamToken::Token { text, id }
                },
            );
            next = ids.next();
        }
    }

    fn count_token(&mut self, id: Option<TokenId>) {
        self.tokens += 1;
        self.ids += u64::from(id.is_some());
    }

    /// Stores the server's running count.
    ///
    /// Call this method after the tokens of the same chunk have been delivered.
    #[inline]
    pub(super) fn count_now(&mut self, counted: Option<u32>) {
        if let Some(counted) = counted.map(u64::from) {
            self.counted = Some(counted);
            self.ran_ahead |= counted > self.ids;
        }
    }

    /// Stores the server's counts for this choice alone.
    pub(super) fn count(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.usage = Some(usage);
            self.counted = Some(usage.completion_tokens.into());
        }
    }
}

/// The sums over all choices.
#[derive(Debug)]
pub(super) struct Total {
    pub(super) ids: u64,
    has_text_without_id: bool,
    ran_ahead: bool,
    /// The sum of the counts of all choices, if each choice has a count.
    counted: Option<u64>,
}

impl Total {
    pub(super) fn of(choices: &[ChoiceTally]) -> Self {
        let mut total = Self { ids: 0, has_text_without_id: false, ran_ahead: false, counted: None };
        let begun = choices.iter().filter(|choice| choice.begun);
        for choice in begun.clone() {
            total.ids += choice.ids;
            total.has_text_without_id |= choice.has_text_without_id;
            total.ran_ahead |= choice.ran_ahead;
        }
        if begun.clone().next().is_some() {
            total.counted = begun.map(|choice| choice.counted).sum();
        }
        total
    }

    /// Returns whether all ids arrived.
    ///
    /// `counted` is the server's count for the whole request, if the server sent it. `complete` is
    /// true if the stream has reached its end. Before the end, the counts are not complete. The
    /// result is then `Unknown`, unless an id is already known to be missing.
    pub(super) fn ids_exact(&self, counted: Option<u64>, complete: bool, llama_cpp: bool) -> IdsExact {
        let received = self.ids;
        let counted = counted.or(self.counted);
        if self.has_text_without_id {
            return IdsExact::No(if received == 0 { Inexact::NoIds } else { Inexact::TextWithoutId });
        }
        if self.ran_ahead {
            let counted = counted.unwrap_or(0).max(received);
            return IdsExact::No(Inexact::LostInCharacter { received, counted });
        }
        match counted {
            _ if !complete => IdsExact::Unknown,
            None => IdsExact::Unknown,
            Some(counted) if counted == received => IdsExact::Yes,
            Some(counted) if counted > received && llama_cpp => {
                IdsExact::No(Inexact::LostInCharacter { received, counted })
            }
            Some(counted) => IdsExact::No(Inexact::CountDiffers { received, counted }),
        }
    }
}
