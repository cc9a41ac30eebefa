//! The reasons why a broken stream is not resumed.

use super::ids::Inexact;

/// The reason why a broken stream was not resumed.
///
/// [`allow_inexact_resume`](crate::CompletionRequest::allow_inexact_resume) accepts some of them:
/// the stream is then resumed although the result may differ from an uninterrupted stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NotResumable {
    /// The prompt is text.
    ///
    /// The received ids would have to follow the ids of the prompt, and these are not known.
    #[error("the prompt is text, so its ids are not known")]
    TextPrompt,
    /// The endpoint does not accept ids (chat, TGI).
    #[error("the endpoint does not accept ids")]
    Endpoint,
    /// The request is a saved request, sent again by
    /// [`ApiClient::resend`](crate::ApiClient::resend).
    ///
    /// A saved request is sent byte by byte. It is not parsed.
    #[error("a saved request cannot be changed")]
    Resent,
    /// Ids are missing, or text arrived without ids.
    #[error("the ids are not exact: {0}")]
    InexactIds(Inexact),
    /// The request has more than one choice.
    #[error("more than one choice was requested")]
    SeveralChoices,
    /// The request echoes the prompt, and would echo it again.
    #[error("the prompt is echoed")]
    Echo,
    /// A LiteLLM proxy answers (it sends `x-litellm-` headers).
    ///
    /// LiteLLM adds a finish reason that its server did not send, so a stream that looks complete
    /// may not be complete.
    #[error("a LiteLLM proxy answers, and its finish reasons may be false")]
    LiteLlm,
    /// The last id arrived without text, so it may be the model's end token.
    ///
    /// This happens with a server that reports the end in a separate event (llama.cpp). Nothing may
    /// be requested after an end token. Only a greedy request can request the last token again.
    #[error("the last id arrived without text and may be the end token")]
    MayHaveEnded,
    /// A grammar or schema would start again in the middle of the answer.
    ///
    /// `allow_inexact_resume` accepts this reason.
    #[error("a grammar or schema would start again")]
    StructuredOutput,
    /// A penalty counts the output separately from the prompt.
    ///
    /// `allow_inexact_resume` accepts this reason. llama.cpp's penalties and vLLM's
    /// `repetition_penalty` count both together, so they stay exact.
    #[error("a penalty counts the output separately from the prompt")]
    Penalty,
    /// The server held text back for stop strings, and this text is lost.
    ///
    /// This applies to vLLM and to unknown servers. `allow_inexact_resume` accepts this reason: the
    /// ids are not affected.
    #[error("the server held text back for stop strings")]
    StopStrings,
    /// An extra field with this name does not allow a resume.
    ///
    /// A resume would have to change the field, or the field counts the output separately from the
    /// prompt. `allow_inexact_resume` accepts the second case.
    #[error("the extra field {0} would have to change, or counts the output separately")]
    Field(&'static str),
    /// [`ResumePolicy::max_resumes`](crate::ResumePolicy::max_resumes) was reached.
    #[error("the stream was resumed as often as the policy allows")]
    UsedUp,
    /// The client's retry [`budget`](crate::RetryPolicy::budget) is empty.
    #[error("the client's retry budget is empty")]
    Budget,
    /// The wait before the resume would have exceeded the deadline.
    #[error("the wait would exceed the deadline")]
    Deadline,
}

impl NotResumable {
    /// Returns whether the caller may accept a different result.
    pub(crate) fn is_acceptable(self) -> bool {
        matches!(self, Self::StructuredOutput | Self::Penalty | Self::StopStrings | Self::Field(_))
    }
}
