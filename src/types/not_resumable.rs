//! The reasons for which a broken stream is not resumed.

use super::ids::Inexact;

/// Why a broken stream was not taken up again. [`CompletionRequest::allow_inexact_resume`](crate::CompletionRequest::allow_inexact_resume)
/// accepts some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NotResumable {
    /// The prompt is text: its ids, behind which those received would have to stand, are not known.
    #[error("the prompt is text, whose ids are not known")]
    TextPrompt,
    /// The endpoint takes no ids (chat, TGI).
    #[error("the endpoint takes no ids")]
    Endpoint,
    /// A saved request that was sent again ([`ApiClient::resend`](crate::ApiClient::resend)) is bytes, and not taken apart.
    #[error("a saved request is not taken apart")]
    Resent,
    /// Ids are missing, or text came without them.
    #[error("the ids are not exact: {0}")]
    InexactIds(Inexact),
    /// More than one choice was asked for.
    #[error("more than one choice was asked for")]
    SeveralChoices,
    /// The prompt is echoed, and would be again.
    #[error("the prompt is echoed")]
    Echo,
    /// A LiteLLM proxy answered (`x-litellm-` headers). It writes a finish reason where the server behind it sent none, so
    /// that what looks complete need not be.
    #[error("a LiteLLM proxy answers, whose finish reasons may be false")]
    LiteLlm,
    /// The last id came without text, on a server (llama.cpp) that tells the end in an event of its own: it may be the model's
    /// end token, behind which nothing must be asked for. Only a greedy request can ask for it once more.
    #[error("the last id came without text and may be the end")]
    MayHaveEnded,
    /// A grammar or schema, which would begin anew in the middle of the answer. May be accepted.
    #[error("a grammar or schema would begin anew")]
    StructuredOutput,
    /// A penalty, which counts the output apart from the prompt. May be accepted: llama.cpp's penalties, and vLLM's
    /// `repetition_penalty`, count both together.
    #[error("a penalty counts the output apart from the prompt")]
    Penalty,
    /// Stop strings, on a server that holds text back for them (vLLM) or is not known: what it held back at the break is lost.
    /// May be accepted: the ids are not touched.
    #[error("text was held back for stop strings")]
    StopStrings,
    /// An extra field of this name, which sets anew what a resume has to change, or counts the output apart from the
    /// prompt. May be accepted, where it does the second.
    #[error("the extra field {0} would have to change, or counts the output")]
    Field(&'static str),
    /// As often as [`ResumePolicy::max_resumes`](crate::ResumePolicy::max_resumes) says it was.
    #[error("it was resumed as often as the policy allows")]
    UsedUp,
    /// The client's [`budget`](crate::RetryPolicy::budget) is empty.
    #[error("the client's budget of retries is empty")]
    Budget,
    /// The wait before it would have passed the deadline.
    #[error("the wait would pass the deadline")]
    Deadline,
}

impl NotResumable {
    /// The caller can take the difference upon himself.
    pub(crate) fn is_acceptable(self) -> bool {
        matches!(self, Self::StructuredOutput | Self::Penalty | Self::StopStrings | Self::Field(_))
    }
}
