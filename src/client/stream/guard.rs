//! The consumer's side of a stream: a guard that ends the stream or waits for its end.

use std::fmt;
use std::sync::{Arc, Weak};

use super::report::StreamReport;

/// Controls a running stream: cancels it, or waits for its end.
///
/// Dropping the guard cancels the stream at once and does not wait. [`on_drop`](Self::on_drop) can
/// change this.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest, Outcome, StreamToken};
/// # use tokenwire::testing::{Script, MockServer};
/// # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
/// # let server = MockServer::scripted([Script::events([first]).hang(std::time::Duration::from_secs(60))])?;
/// # let client = ApiClient::builder(server.url()).build()?;
/// let (tokens, guard) = client.stream(CompletionRequest::text("Count."))?;
/// if let Ok(StreamToken::Token { .. }) = tokens.recv() {
///     // One token was enough.
///     guard.cancel();
/// }
/// assert_eq!(guard.join().ending, Outcome::Cancelled);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[must_use = "dropping the guard cancels the stream"]
pub struct StreamGuard {
    control: Arc<dyn StreamControl>,
    on_drop: OnDrop,
}

/// The object that a guard controls: one request with its retries, or a race of two requests.
pub(super) trait StreamControl: Send + Sync {
    fn cancel(&self);
    fn join(&self) -> StreamReport;
    fn report(&self) -> Option<StreamReport>;
}

/// The effect of dropping a [`StreamGuard`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDrop {
    /// Cancels the stream at once, as [`StreamGuard::cancel`] does. The drop does not wait.
    #[default]
    Cancel,
    /// Waits until the stream has ended by itself, as [`StreamGuard::join`] does.
    Join,
}

/// Cancels a stream from anywhere, for example from the thread of a signal handler.
///
/// Clones cancel the same stream. Dropping a canceller does nothing. A canceller keeps neither the
/// stream nor its client alive.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest, Outcome};
/// # use tokenwire::testing::{Script, MockServer};
/// # let silence = std::time::Duration::from_secs(60);
/// # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
/// # let server = MockServer::scripted([Script::events([first]).hang(silence)])?;
/// # let client = ApiClient::builder(server.url()).build()?;
/// let (_tokens, guard) = client.stream(CompletionRequest::text("Count."))?;
/// let canceller = guard.canceller();
/// std::thread::spawn(move || canceller.cancel());
/// assert_eq!(guard.join().ending, Outcome::Cancelled);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Canceller(Weak<dyn StreamControl>);

impl StreamGuard {
    pub(super) fn new(control: Arc<dyn StreamControl>) -> Self {
        Self { control, on_drop: OnDrop::default() }
    }

    /// Ends the stream at once and does not wait.
    ///
    /// - The socket is shut down, even while a read or a write is blocked on it.
    /// - The channel is disconnected without `Done` or `Error`. You can still read the tokens that
    ///   are already in the channel.
    /// - Nothing more is sent to the server.
    ///
    /// If the stream has already ended, nothing happens.
    ///
    /// A thread cannot be interrupted while the operating system connects. The channel still ends
    /// at once. The thread ends when its connect timer expires, and it sends nothing.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Blocks until the stream has ended by itself, and returns its report.
    ///
    /// The timers of the stream limit this wait. When `join` returns, the channel has ended too,
    /// and no more items arrive.
    ///
    /// `join` removes the size limit of the channel, so it never waits for a consumer that does not
    /// read. Tokens that you do not take stay in the channel, in memory.
    pub fn join(self) -> StreamReport {
        self.wait()
    }

    pub(super) fn wait(&self) -> StreamReport {
        self.control.join()
    }

    /// Returns the report if the stream has ended.
    #[must_use]
    pub fn report(&self) -> Option<StreamReport> {
        self.control.report()
    }

    /// Sets what dropping this guard does. Default: [`OnDrop::Cancel`].
    pub fn on_drop(mut self, policy: OnDrop) -> Self {
        self.on_drop = policy;
        self
    }

    /// Returns a handle that can cancel the stream from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.control))
    }
}

impl Canceller {
    /// Cancels the stream, as [`StreamGuard::cancel`] does.
    pub fn cancel(&self) {
        // If the upgrade fails, the stream and its guard no longer exist.
        if let Some(control) = self.0.upgrade() {
            control.cancel();
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Cancel => self.control.cancel(),
            OnDrop::Join => drop(self.control.join()),
        }
    }
}

impl fmt::Debug for StreamGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamGuard")
            .field("ending", &self.control.report().map(|report| report.ending))
            .field("on_drop", &self.on_drop)
            .finish_non_exhaustive()
    }
}
