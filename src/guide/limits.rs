//! Limit memory use.
//!
//! ```
//! use tokenwire::{ApiClient, Limits, WhenFull};
//!
//! let mut limits = Limits::default();
//! limits.max_streams = 32;
//! limits.max_channel_bytes = 1 << 20;
//! let client = ApiClient::builder("http://127.0.0.1:8000/v1")
//!     .limits(limits)
//!     .when_full(WhenFull::Fail)
//!     .build()?;
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! Every buffer and every queue has a limit. You can set most limits in [`Limits`](crate::Limits).
//! A few limits are constants, such as [`MAX_RESPONSE_HEAD_BYTES`](crate::MAX_RESPONSE_HEAD_BYTES)
//! and [`MAX_CHOICES`](crate::MAX_CHOICES). The table shows the most important limits, and marks
//! the constants as *fixed*:
//!
//! | what | default | when the limit is reached |
//! | --- | --- | --- |
//! | one event | 32 MiB | error |
//! | the part of an error body that is read | 64 KiB | the rest is not read |
//! | the head of a response | 15 KiB, fixed | error |
//! | tokens in a channel | 1,024 | the stream stops reading from its socket |
//! | text in a channel | 8 MiB | the stream stops reading from its socket |
//! | one tool call | 16 MiB | the call is malformed |
//! | the text of one turn | 64 MiB | error |
//! | nesting of JSON | 128 levels | error; if the JSON is the arguments of a call, the call is malformed |
//! | choices in one chunk | 128, fixed | error |
//! | streams at once | 256 | the stream waits for its turn; with [`WhenFull::Fail`](crate::WhenFull), it fails |
//! | streams that wait for their turn | 65,536 | error |
//!
//! Each error in the table is an [`ErrorKind::Limit`](crate::ErrorKind::Limit) with the name of the
//! limit.
//!
//! While a stream waits for a slow consumer, only its timer `deadline` runs.
