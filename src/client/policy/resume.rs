//! Taking a broken stream up again: how often, and what a report says about it.
//!
//! Pure. What a request allows, and how it goes on, is in request/resume.rs; what a stream has to remember for it, in
//! stream/resume_state.

use std::time::Duration;

use crate::error::ErrorKind;

/// The most resumes that one stream can have, whatever [`ResumePolicy::max_resumes`] asks for: each stands in the report.
pub const MAX_RESUMES: u32 = 1000;

/// Whether a stream that broke off after tokens is taken up again: [`ApiClientBuilder::resume`](crate::ApiClientBuilder::resume).
///
/// The request is sent again with the ids received behind its prompt, and with as many tokens less to generate. What comes
/// goes on in the same channel: no id is lost and none comes twice. A client does that only if it was told to: a part of the prompt
/// is paid for again, and a sampled answer is another draw from there on.
///
/// Taken up are the ends that [`Error::is_resumable`](crate::Error::is_resumable) names: the connection ended or went
/// silent, or the server reported a fault of its own. Never what a cancel, the deadline, a limit or the request itself ended. What
/// is not taken up ends as it would without this, and [`StreamReport::not_resumed`](crate::StreamReport::not_resumed) says
/// why; [`NotResumable`](crate::NotResumable) lists the reasons.
///
/// Before each resume comes a wait, as before a retry, from the same [`RetryPolicy`](crate::RetryPolicy) and out of the same
/// [`budget`](crate::RetryPolicy::budget): the first is the shortest, and new tokens make the next one the first again. A resume that
/// fails before its first token may be followed by another if it failed in a way that a request is retried after. The
/// [`first_token`](crate::Timeouts::first_token) timer runs anew for each, the deadline runs on.
///
/// # Ids and text
///
/// The ids are those of the server, exact. With temperature 0 they equal those of an unbroken stream as far as the
/// server computes the same whether a token stood in its prompt or was its own; with sampling they are a valid continuation,
/// not the same draw (a `seed` begins anew).
///
/// The text is the server's too. Ids at the break whose text had not come (they end inside a character, or the text
/// may begin a stop string) would leave it wrong: vLLM begins the next text with the whole prompt then (its issue 48853), others leave
/// the character out. So a greedy request goes back to the last id that had its text, and takes those ids once
/// more; they must come out the same, and are not handed out twice. If they do not, or if the request is not greedy, it goes
/// on behind the last id, and the first text that comes, of which nothing can be known without the model's
/// tokenizer, is U+FFFD; [`Resume::text_exact`] is false then. Where one event brings several ids with one text, they are taken
/// to be in step. A prompt in front of the first text is taken off it wherever it can be told: if it ends with
/// all that was handed out, 64 bytes at least.
///
/// A stop string whose beginning came before the break and whose end after it, which the server cannot see, ends the
/// stream here: with finish reason `stop`, and no usage but what the server counted on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumePolicy {
    /// How many requests are sent to take one stream up again, over all its breaks. 0 for never. Default 3: enough for a
    /// server that goes down and one that comes up slowly; a stream that breaks more often than that has a server that
    /// kills it, and each resume costs its prompt. At most [`MAX_RESUMES`] count.
    pub max_resumes: u32,
    /// The most ids at a break that are taken once more for their text; with more, text is lost. Default 16: a character has
    /// four at most, a stop string's beginning some more.
    pub max_ids_again: usize,
}

impl Default for ResumePolicy {
    fn default() -> Self {
        Self { max_resumes: 3, max_ids_again: 16 }
    }
}

impl ResumePolicy {
    /// What a client does that was told nothing.
    pub(crate) fn never() -> Self {
        Self { max_resumes: 0, ..Self::default() }
    }
}

/// One break of a stream that was taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resume {
    /// How many ids had been received: the new ones begin here.
    pub at_id: u64,
    /// What had broken the stream.
    pub after: ErrorKind,
    /// How many requests were sent for it; the last one went on.
    pub requests: u32,
    /// From the break to the first new token, or to the end if none was missing, all waits included; `None` if neither came.
    pub took: Option<Duration>,
    /// How many ids were taken once more, because their text had not come. The consumer does not get them twice.
    pub ids_again: u64,
    /// The text across the break is what an unbroken stream has; see [`ResumePolicy`].
    pub text_exact: bool,
}
