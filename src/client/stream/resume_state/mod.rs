//! The ids and the text that a stream has received, for a later request that resumes the stream.
//!
//! The splice is the place where the answer of the later request continues the text delivered
//! before the break. This module is pure.
//!
//! ```text
//! ids        p p p p | a b c d e f        "d" had its text; "e" and "f" arrived without text
//! text               | abcd
//!                            ✂ the break
//! greedy     p p p p   a b c d | e f g    continues after the last id that had its text
//!                              |   efg
//! otherwise  p p p p   a b c d   e f | g  continues after the last id; the first text is U+FFFD
//! ```
//!
//! Here `p` is an id of the prompt. The ids `e` and `f` have no text because they end inside a
//! character, or because the server held their text back. A greedy request must produce `e f`
//! again. tokenwire removes the repeated ids and delivers their text with the first new id. After a
//! request that is not greedy, the first text is not reliable.

use crate::client::policy::resume::ResumePolicy;
use crate::error::{Error, ErrorKind};
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::types::ids::{FinishReason, IdsExact, Inexact, TokenId, Usage};
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

/// The number of bytes of delivered text that are kept to recognize a repetition.
const MIN_TAIL_BYTES: usize = 64;

pub(super) struct ResumeState {
    /// The request, or the reason why no ids are kept.
    ///
    /// The reason is `None` if the client does not resume streams.
    request: Result<Box<CompletionRequest>, Option<NotResumable>>,
    policy: ResumePolicy,
    endpoint: Endpoint,
    /// All ids delivered so far.
    ids: Vec<TokenId>,
    /// The number of ids since the last text. They arrived in events without text.
    without_text: usize,
    /// True once some text has arrived.
    has_text: bool,
    /// The end of the delivered text: [`MIN_TAIL_BYTES`], or more if stop strings are longer.
    tail: String,
    /// The number of text bytes delivered so far.
    text_bytes: usize,
    /// True if the server did not repeat its own ids.
    diverged: bool,
    /// The number of ids that the prompt of the running attempt contains.
    in_prompt: usize,
    splice: Option<Splice>,
}

/// The state of an attempt that resumes the stream, until new text arrives.
struct Splice {
    /// The ids from `next` to `due` must arrive again.
    next: usize,
    due: usize,
    /// The text of the ids that have arrived again.
    text: String,
    /// True while no text has arrived.
    is_first: bool,
    /// True if the first text is not reliable.
    text_is_lost: bool,
    /// True if the ids did not arrive again. This attempt then produces a different answer.
    is_missed: bool,
    /// The end of the text before the splice, followed by the text after the splice.
    ///
    /// A stop string may begin before the splice and end after the splice.
    around: String,
    /// The position of the splice in `around`.
    at: usize,
}

/// How a stream is resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumeStart {
    pub(super) ids_again: usize,
    pub(super) text_exact: bool,
}

impl ResumeState {
    /// Creates an empty state. It keeps ids only if the request can be resumed.
    pub(super) fn new(
        request: Result<CompletionRequest, NotResumable>,
        endpoint: Endpoint,
        policy: ResumePolicy,
    ) -> Self {
        let request = match request {
            _ if policy.max_resumes == 0 => Err(None),
            Err(why) => Err(Some(why)),
            Ok(request) => request.check_resumable(endpoint).map(|()| Box::new(request)).map_err(Some),
        };
        Self {
            request,
            policy,
            endpoint,
            ids: Vec::new(),
            without_text: 0,
            has_text: false,
            tail: String::new(),
            text_bytes: 0,
            diverged: false,
            in_prompt: 0,
            splice: None,
        }
    }

    pub(super) fn policy(&self) -> ResumePolicy {
        self.policy
    }

    pub(super) fn ids(&self) -> usize {
        self.ids.len()
    }

    /// Returns the request of the running attempt, or `None` for the original request.
    pub(super) fn next_request(&self) -> Option<CompletionRequest> {
        self.splice.as_ref()?;
        Some(self.request.as_ref().ok()?.behind(&self.ids[..self.in_prompt]))
    }

    // ---- at a break ----

    /// Checks whether the ids and the request allow the stream to be resumed.
    ///
    /// `Err(None)` means that the client does not resume streams.
    pub(super) fn check(&self, exact: IdsExact, server: Option<Family>) -> Result<(), Option<NotResumable>> {
        let request = self.request.as_ref().map_err(|why| *why)?;
        let refused = |why| Err(Some(why));
        if let IdsExact::No(why) = exact {
            return refused(NotResumable::InexactIds(why));
        }
        if self.ids.is_empty() {
            return refused(NotResumable::InexactIds(Inexact::NoIds));
        }
        if !self.sees_stops(request, server) && !request.resumes_anyway() {
            return refused(NotResumable::StopStrings);
        }
        let server = self.server(server);
        if server == Some(Family::LlamaCpp) && self.without_text > 0 && !self.can_go_back() {
            return refused(NotResumable::MayHaveEnded);
        }
        Ok(())
    }

    /// Returns the finish reason if the ids received are the whole answer.
    pub(super) fn complete(&self, server: Option<Family>) -> Option<FinishReason> {
        let sampling = &self.request.as_ref().ok()?.sampling;
        let is_stop =
            |id| sampling.stop_token_ids.contains(id) && self.server(server) != Some(Family::LlamaCpp);
        if self.ids.last().is_some_and(is_stop) {
            return Some(FinishReason::Stop);
        }
        let is_all = sampling.max_tokens.is_some_and(|max| self.ids.len() >= max as usize);
        is_all.then_some(FinishReason::Length)
    }

    /// Prepares the next attempt, which resumes the stream.
    pub(super) fn start_resume(&mut self, server: Option<Family>) -> ResumeStart {
        let again = if self.can_go_back() { self.without_text } else { 0 };
        let due = self.ids.len();
        let text_is_lost = again < self.without_text && self.tells_text();
        self.in_prompt = due - again;
        // A stop string does not count if it begins before the answer has `min_tokens` tokens.
        let min = self.request.as_ref().map_or(0, |request| request.sampling.min_tokens.unwrap_or(0));
        let around = if due < min as usize { String::new() } else { self.tail.clone() };
        let at = around.len();
        self.splice = Some(Splice {
            next: self.in_prompt,
            due,
            text: String::new(),
            is_first: true,
            text_is_lost,
            is_missed: false,
            around,
            at,
        });
        let watches = self.request.as_ref().is_ok_and(|request| self.sees_stops(request, server));
        ResumeStart { ids_again: again, text_exact: !text_is_lost && watches }
    }

    /// Returns true if no text is lost at a break because of stop strings.
    ///
    /// Either the server holds no text back, or the text belongs to ids that are requested again.
    fn sees_stops(&self, request: &CompletionRequest, server: Option<Family>) -> bool {
        let shows_all = matches!(self.server(server), Some(Family::LlamaCpp | Family::SgLang));
        !request.has_own_stops()
            && (request.sampling.stop.is_empty() || shows_all || request.keeps_stop_strings())
    }

    fn server(&self, seen: Option<Family>) -> Option<Family> {
        self.endpoint.family().or(seen)
    }

    /// Returns true if the answer has text. vLLM's generate endpoint sends text only on request.
    fn tells_text(&self) -> bool {
        self.has_text || self.endpoint != Endpoint::VllmGenerate
    }

    fn can_go_back(&self) -> bool {
        self.request.as_ref().is_ok_and(|request| request.is_greedy())
            && self.tells_text()
            && !self.diverged
            && self.without_text <= self.policy.max_ids_again
    }

    // ---- while tokens arrive ----

    /// Processes the tokens of one event before they are delivered.
    ///
    /// Removes the ids that were received before the break. Returns true if a stop string that
    /// began before the splice ends in these tokens. The text after the stop string is then
    /// removed.
    pub(super) fn event(&mut self, tokens: &mut Vec<StreamToken>) -> Result<bool, Error> {
        if self.request.is_err() || tokens.is_empty() {
            return Ok(false);
        }
        let ended = match self.splice.take() {
            None => false,
            Some(mut splice) => {
                let crossed = self.cross_splice(&mut splice, tokens);
                // The splice is kept even after an error, because it shows that this was not the
                // first attempt.
                self.splice = Some(splice);
                crossed?
            }
        };
        self.note(tokens);
        Ok(ended)
    }

    /// Returns the text that is not delivered yet at the end of a complete attempt.
    ///
    /// This text arrived when the server repeated the ids from before the break. No new id followed
    /// it.
    pub(super) fn rest(&mut self) -> Result<Option<StreamToken>, Error> {
        let Some(splice) = &mut self.splice else { return Ok(None) };
        if splice.next < splice.due {
            self.diverged = true;
            return Err(splice.miss());
        }
        let text = std::mem::take(&mut splice.text);
        Ok((!text.is_empty()).then_some(StreamToken::Token { text, id: None }))
    }

    /// Returns true if this attempt produces a different answer than the attempts before it.
    pub(super) fn is_missed(&self) -> bool {
        self.splice.as_ref().is_some_and(|splice| splice.is_missed)
    }

    fn cross_splice(&mut self, splice: &mut Splice, tokens: &mut Vec<StreamToken>) -> Result<bool, Error> {
        if splice.next < splice.due {
            let mut new = Vec::new();
            for token in tokens.drain(..) {
                match token {
                    StreamToken::Token { text, id: Some(id) } if splice.next < splice.due => {
                        if self.ids[splice.next] != id {
                            self.diverged = true;
                            return Err(splice.miss());
                        }
                        splice.next += 1;
                        splice.text += &text;
                    }
                    token => new.push(token),
                }
            }
            *tokens = new;
        }
        for token in tokens.iter_mut() {
            let StreamToken::Token { text, .. } = token else { continue };
            if !splice.text.is_empty() {
                text.insert_str(0, &std::mem::take(&mut splice.text));
            }
            if !text.is_empty() && std::mem::replace(&mut splice.is_first, false) {
                if let Some(at) = self.end_of_prompt(text) {
                    text.drain(..at);
                } else if splice.text_is_lost {
                    *text = "\u{fffd}".to_owned();
                }
            }
        }
        let Ok(request) = &self.request else { return Ok(false) };
        let sampling = &request.sampling;
        if sampling.stop.is_empty() {
            return Ok(false);
        }
        Ok(splice.stop(&sampling.stop, request.keeps_stop_strings(), tokens))
    }

    /// Returns the offset of the new text if vLLM has sent the text of the whole prompt before it.
    ///
    /// The caller passes the first text of an attempt. The prompt contains all text delivered so
    /// far, so a text that begins with the prompt is longer than all earlier text together.
    fn end_of_prompt(&self, text: &str) -> Option<usize> {
        let is_whole = self.text_bytes >= MIN_TAIL_BYTES && text.len() > self.text_bytes;
        let at = if is_whole { text.rfind(&self.tail)? } else { return None };
        Some(at + self.tail.len())
    }

    fn note(&mut self, tokens: &[StreamToken]) {
        let before = self.ids.len();
        let mut has_text = false;
        for token in tokens {
            let StreamToken::Token { text, id } = token else { continue };
            self.ids.extend(id);
            has_text |= !text.is_empty();
            self.tail += text;
            self.text_bytes += text.len();
        }
        self.without_text = if has_text { 0 } else { self.without_text + self.ids.len() - before };
        self.has_text |= has_text;
        let longest = self.request.as_ref().map_or(0, |request| longest(&request.sampling.stop));
        let kept = longest.max(MIN_TAIL_BYTES);
        // The tail is cut only when it has become long, because cutting it for every token is
        // slower.
        if self.tail.len() > 8 * kept {
            let cut = self.tail.len() - kept;
            let cut = (0..=cut).rev().find(|at| self.tail.is_char_boundary(*at)).unwrap_or(0);
            self.tail.drain(..cut);
        }
    }

    /// Converts the counts of the running attempt to counts of the original request.
    ///
    /// `first` is the usage of the first attempt.
    pub(super) fn whole_usage(&self, usage: Usage, first: Option<Usage>) -> Usage {
        let before = u32::try_from(self.in_prompt).unwrap_or(u32::MAX);
        if self.splice.is_none() {
            return usage;
        }
        let prompt_tokens = usage.prompt_tokens.saturating_sub(before);
        Usage {
            prompt_tokens: first.map_or(prompt_tokens, |first| first.prompt_tokens),
            completion_tokens: usage.completion_tokens.saturating_add(before),
            // Some of the received ids may also come from the cache, so the number of cached ids of
            // the original prompt is unknown.
            cached_tokens: first.and_then(|first| first.cached_tokens),
            reasoning_tokens: usage.reasoning_tokens,
        }
    }

    /// Converts the exactness of the attempt's ids to the exactness for the original request.
    pub(super) fn whole_exact(&self, exact: IdsExact) -> IdsExact {
        let before = self.in_prompt as u64;
        match exact {
            IdsExact::No(Inexact::LostInCharacter { received, counted }) => {
                IdsExact::No(Inexact::LostInCharacter {
                    received: received + before,
                    counted: counted + before,
                })
            }
            IdsExact::No(Inexact::CountDiffers { received, counted }) => {
                IdsExact::No(Inexact::CountDiffers { received: received + before, counted: counted + before })
            }
            IdsExact::No(Inexact::NoIds | Inexact::Dropped) if before > 0 => {
                IdsExact::No(Inexact::TextWithoutId)
            }
            exact => exact,
        }
    }
}

fn longest(stop: &[String]) -> usize {
    stop.iter().map(String::len).max().unwrap_or(0)
}

impl Splice {
    fn miss(&mut self) -> Error {
        self.is_missed = true;
        Error::new(ErrorKind::Incomplete, "the server did not repeat the ids before the break")
    }

    /// Looks for a stop string that begins before the splice and ends in `tokens`.
    ///
    /// If there is such a stop string, this function removes the text that the server would not
    /// have sent without the break.
    fn stop(&mut self, stop: &[String], keeps: bool, tokens: &mut Vec<StreamToken>) -> bool {
        let mut found = false;
        for token in tokens.iter_mut() {
            let StreamToken::Token { text, .. } = token else { continue };
            if found {
                text.clear();
                continue;
            }
            // A stop string that ends after this point cannot begin before the splice.
            if self.around.len() - self.at >= longest(stop) {
                break;
            }
            let before = self.around.len();
            self.around += text;
            let over = stop.iter().flat_map(|stop| self.stop_end_after(stop, before));
            if let Some(end) = over.min() {
                found = true;
                text.truncate(if keeps { end - before } else { 0 });
            }
        }
        if found {
            tokens.retain(|token| !matches!(token, StreamToken::Token { text, id: None } if text.is_empty()));
        }
        found
    }

    /// Finds a stop string that begins before the splice and ends after `before`. Returns its end.
    fn stop_end_after(&self, stop: &str, before: usize) -> Option<usize> {
        let begins = |start: &usize| self.around.get(*start..).is_some_and(|text| text.starts_with(stop));
        (0..self.at).filter(begins).map(|start| start + stop.len()).find(|end| *end > before)
    }
}

#[cfg(test)]
mod tests;
