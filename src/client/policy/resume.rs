//! The policy for resuming broken streams, and the report of each resume.
//!
//! This module is pure. `request/resume.rs` checks whether a request can be resumed, and builds the
//! next request. `stream/resume_state` keeps the ids and the text that a stream has received.

use std::time::Duration;

use crate::error::ErrorKind;

/// The maximum number of resumes of one stream, whatever [`ResumePolicy::max_resumes`] is.
///
/// The report of the stream lists each resume.
pub const MAX_RESUMES: u32 = 1000;

/// The policy for resuming streams that break after tokens.
///
/// [`ApiClientBuilder::resume`](crate::ApiClientBuilder::resume) sets the policy. Without a policy,
/// streams are not resumed, because a resume has two costs. You pay for a part of the prompt twice.
/// With sampling, the rest of the answer is a different random draw.
///
/// tokenwire sends the prompt plus the ids received so far, lowers `max_tokens` by the number
/// received, and delivers the rest through the same channel. No id is lost and none arrives twice.
///
/// ```
/// let mut resume = tokenwire::ResumePolicy::default();
/// resume.max_resumes = 10;
/// let client = tokenwire::ApiClient::builder("http://127.0.0.1:8000/v1").resume(resume).build()?;
/// # Ok::<(), tokenwire::Error>(())
/// ```
///
/// # Which streams are resumed
///
/// A stream is resumed if [`Error::is_resumable`](crate::Error::is_resumable) is true for its
/// error: the connection ended or went silent, or the server reported a fault of its own. A stream
/// is never resumed after a cancel, the deadline or a limit. A stream is not resumed either if the
/// request itself is at fault.
///
/// A stream that cannot be resumed ends with its error, and
/// [`StreamReport::not_resumed`](crate::StreamReport::not_resumed) holds the reason.
/// [`NotResumable`](crate::NotResumable) lists the reasons.
///
/// # Waits and timers
///
/// - tokenwire waits before a resume as it waits before a retry. The same
///   [`RetryPolicy`](crate::RetryPolicy) sets the wait, and the resume takes one retry from the
///   same [`budget`](crate::RetryPolicy::budget).
/// - The maximum wait grows with each further resume. New tokens reset the maximum to its first
///   value.
/// - A resume may fail before its first token. tokenwire then tries another resume if it would also
///   retry a request after the same failure.
/// - The timer [`first_token`](crate::Timeouts::first_token) restarts with each resume. The
///   deadline keeps running.
///
/// # Ids
///
/// The ids are exact: they are the ids of the server. With temperature 0, they equal the ids of an
/// uninterrupted stream. This requires that the server computes the same result for a token in the
/// prompt as for a token that it generated. With sampling, the ids are a valid continuation, but
/// not the same random draw. A `seed` does not change this, because the server applies the seed
/// from the beginning again.
///
/// # Text
///
/// The consumer receives exactly the text that the server would have sent without the break. The
/// last ids before the break may not have their text yet, because they end inside a character or
/// because they may begin a stop string. A server that continues after such ids sends the wrong
/// text. vLLM starts the next text with the whole prompt (vLLM issue 48853); other servers leave
/// the character out. tokenwire handles this case as follows:
///
/// | request | how the stream is resumed |
/// | --- | --- |
/// | greedy | The stream continues after the last id that had its text. tokenwire requests the ids without text again. The server must send the same ids again, and you do not receive them twice. |
/// | not greedy, or the server does not send the same ids again | The stream continues after the last id. The first text becomes U+FFFD, because it cannot be reconstructed without the model's tokenizer. [`Resume::text_exact`] is then false. |
///
/// If one event has several ids and a text, tokenwire assumes that the text is complete. If the
/// first text begins with the prompt, tokenwire removes the prompt. It recognizes the prompt
/// because the prompt contains the text delivered before the break. This text must have at least 64
/// bytes.
///
/// # Stop strings
///
/// A stop string may begin before the break and end after it. The server cannot detect such a stop
/// string, so tokenwire detects it and ends the stream with finish reason `stop`. The report then
/// contains a usage only if the server had already sent a usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumePolicy {
    /// The maximum number of requests to resume one stream, over all its breaks. Default: 3.
    ///
    /// 0 turns resuming off. A value above [`MAX_RESUMES`] counts as [`MAX_RESUMES`]. Three
    /// requests are enough if one server goes down and another server starts slowly. A stream that
    /// breaks more often is probably killed by its server, and each resume costs the prompt again.
    pub max_resumes: u32,
    /// The maximum number of ids at a break that are requested again for their text. Default: 16.
    ///
    /// If more ids have no text, their text is lost. A character has at most four ids. The
    /// beginning of a stop string can have more than four ids.
    pub max_ids_again: usize,
}

impl Default for ResumePolicy {
    fn default() -> Self {
        Self { max_resumes: 3, max_ids_again: 16 }
    }
}

impl ResumePolicy {
    /// Returns the policy of a client that does not resume streams.
    pub(crate) fn never() -> Self {
        Self { max_resumes: 0, ..Self::default() }
    }
}

/// A break of a stream, and the requests that resumed the stream after it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resume {
    /// The number of ids received before the break. The new ids begin at this index.
    pub at_id: u64,
    /// The kind of error that broke the stream.
    pub after: ErrorKind,
    /// The number of requests sent at this break. The last one continued the stream.
    pub requests: u32,
    /// The time from the break to the first new token, including all waits.
    ///
    /// If no token was missing, this is the time from the break to the end of the stream. It is
    /// `None` if neither a token nor the end arrived.
    pub took: Option<Duration>,
    /// The number of ids that were requested again because their text was missing.
    ///
    /// You do not receive these ids twice.
    pub ids_again: u64,
    /// True if the text across the break equals the text of an uninterrupted stream.
    ///
    /// [`ResumePolicy`] explains when the two texts differ.
    pub text_exact: bool,
}
