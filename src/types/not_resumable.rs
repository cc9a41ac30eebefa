//! The reasons for which a broken stream is not resumed.

use std::fmt;

use super::ids::Inexact;

/// Why a broken stream was not taken up again. [`CompletionRequest::allow_inexact_resume`](crate::CompletionRequest::allow_inexact_resume)
/// accepts some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotResumable {
    /// The prompt is text: its ids, behind which those received would have to stand, are not known.
    TextPrompt,
    /// The endpoint takes no ids (chat, TGI).
    Endpoint,
    /// A saved request that was sent again ([`ApiClient::resend`](crate::ApiClient::resend)) is bytes, and not taken apart.
    Resent,
    /// Ids are missing, or text came without them.
    InexactIds(Inexact),
    /// More than one choice was asked for.
    SeveralChoices,
    /// The prompt is echoed, and would be again.
    Echo,
    /// A LiteLLM proxy answered (`x-litellm-` headers). It writes a finish reason where the server behind it sent none, so
    /// that what looks complete need not be.
    LiteLlm,
    /// The last id came without text, on a server (llama.cpp) that tells the end in an event of its own: it may be the model's
    /// end token, behind which nothing must be asked for. Only a greedy request can ask for it once more.
    MayHaveEnded,
    /// A grammar or schema, which would begin anew in the middle of the answer. May be accepted.
    StructuredOutput,
    /// A penalty, which counts the output apart from the prompt. May be accepted: llama.cpp's penalties, and vLLM's
    /// `repetition_penalty`, count both together.
    Penalty,
    /// Stop strings, on a server that holds text back for them (vLLM) or is not known: what it held back at the break is lost.
    /// May be accepted: the ids are not touched.
    StopStrings,
    /// An extra field of this name, which sets anew what a resume has to change, or counts the output apart from the
    /// prompt. May be accepted, where it does the second.
    Field(&'static str),
    /// As often as [`ResumePolicy::max_resumes`](crate::ResumePolicy::max_resumes) says it was.
    UsedUp,
    /// The client's [`budget`](crate::RetryPolicy::budget) is empty.
    Budget,
    /// The wait before it would have passed the deadline.
    Deadline,
}

impl fmt::Display for NotResumable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TextPrompt => "the prompt is text, whose ids are not known",
            Self::Endpoint => "the endpoint takes no ids",
            Self::Resent => "a saved request is not taken apart",
            Self::InexactIds(why) => return write!(f, "the ids are not exact: {why}"),
            Self::SeveralChoices => "more than one choice was asked for",
            Self::Echo => "the prompt is echoed",
            Self::LiteLlm => "a LiteLLM proxy answers, whose finish reasons may be false",
            Self::MayHaveEnded => "the last id came without text and may be the end",
            Self::StructuredOutput => "a grammar or schema would begin anew",
            Self::Penalty => "a penalty counts the output apart from the prompt",
            Self::StopStrings => "text was held back for stop strings",
            Self::Field(name) => {
                return write!(f, "the extra field {name} would have to change, or counts the output");
            }
            Self::UsedUp => "it was resumed as often as the policy allows",
            Self::Budget => "the client's budget of retries is empty",
            Self::Deadline => "the wait would pass the deadline",
        })
    }
}

impl NotResumable {
    /// The caller can take the difference upon himself.
    pub(crate) fn is_acceptable(self) -> bool {
        matches!(self, Self::StructuredOutput | Self::Penalty | Self::StopStrings | Self::Field(_))
    }
}
