//! What was received of one choice, what the server counted, and what both together say of the ids.

use std::borrow::Cow;

use super::calls::Calls;
use crate::types::ids::{FinishReason, IdsExact, Inexact, TokenId, Usage};
use crate::types::token::StreamToken;

/// One choice so far.
#[derive(Debug, Default)]
pub(super) struct ChoiceTally {
    /// Whether any chunk named this choice.
    pub(super) begun: bool,
    /// Tokens handed out, with or without ids.
    pub(super) tokens: u64,
    /// Ids handed out.
    pub(super) ids: u64,
    /// Text came, or a piece of a tool call, without any id.
    pub(super) has_text_without_id: bool,
    /// llama.cpp: `tokens_predicted` ran ahead of the ids, so that some were withheld.
    pub(super) ran_ahead: bool,
    /// The server's own running count of this choice's tokens.
    pub(super) counted: Option<u64>,
    /// Usage that came with this choice and not for the whole request.
    pub(super) usage: Option<Usage>,
    pub(super) finish: Option<FinishReason>,
    /// The last event of a wire without a terminator came (llama.cpp's `"stop": true`), with or without a reason.
    pub(super) stopped: bool,
    /// Chat: its tool calls.
    pub(super) calls: Calls,
    /// SGLang: all of the answer, which each event repeats.
    pub(super) so_far: SoFar,
}

/// Text and ids of a choice.
#[derive(Debug, Default)]
pub(super) struct SoFar {
    pub(super) ids: Vec<TokenId>,
    pub(super) text: String,
}

impl ChoiceTally {
    /// Hands out text and ids of a chunk. The id of a token goes to the span of its first byte: a text goes with the first
    /// of its ids. `has_call`: there is a piece of a tool call beside them.
    #[inline]
    pub(super) fn hand_out(
        &mut self,
        index: u32,
        reasoning: Cow<'_, str>,
        text: Cow<'_, str>,
        ids: impl IntoIterator<Item = TokenId>,
        has_call: bool,
        sink: &mut impl FnMut(u32, StreamToken),
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

    /// The server's running count, after the tokens of the chunk that has it.
    #[inline]
    pub(super) fn count_now(&mut self, counted: Option<u32>) {
        if let Some(counted) = counted.map(u64::from) {
            self.counted = Some(counted);
            self.ran_ahead |= counted > self.ids;
        }
    }

    /// The server's counts for this choice alone.
    pub(super) fn count(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.usage = Some(usage);
            self.counted = Some(usage.completion_tokens.into());
        }
    }
}

/// What the choices come to.
#[derive(Debug)]
pub(super) struct Total {
    pub(super) ids: u64,
    has_text_without_id: bool,
    ran_ahead: bool,
    /// The sum of the choices' own counts, if each has one.
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

    /// The verdict. `counted` is the server's count for the whole request, if it sent one; `complete`: the
    /// stream came to its end. Before the end, the counts are no proof either way, only a gap already seen
    /// is.
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
