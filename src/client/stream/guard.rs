//! The consumer's side of a stream: a guard that ends it or waits for its end.

use std::fmt;
use std::sync::{Arc, Weak};

use super::report::StreamReport;

/// Ends its stream, or waits for its end.
///
/// Dropping it does what [`on_drop`](Self::on_drop) says: by default the stream is cancelled, now, without
/// waiting for anything.
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

/// What a guard controls: one request with its retries, or a race of two.
pub(super) trait StreamControl: Send + Sync {
    fn cancel(&self);
    fn join(&self) -> StreamReport;
    fn report(&self) -> Option<StreamReport>;
}

/// What dropping a [`StreamGuard`] does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDrop {
    /// [`StreamGuard::cancel`]: the stream ends now, the drop waits for nothing.
    #[default]
    Cancel,
    /// [`StreamGuard::join`]: the drop waits until the stream has ended by itself.
    Join,
}

/// Cancels a stream from anywhere: another thread, a signal handler's thread. Clones cancel the same stream;
/// dropping one does nothing. It keeps neither the stream nor its client alive.
#[derive(Clone)]
pub struct Canceller(Weak<dyn StreamControl>);

impl StreamGuard {
    pub(super) fn new(control: Arc<dyn StreamControl>) -> Self {
        Self { control, on_drop: OnDrop::default() }
    }

    /// Ends the stream now and does not wait: the socket is shut down under whatever read or write is blocked
    /// on it, the channel is disconnected without a `Done` or an `Error`, and nothing is sent to the server
    /// afterwards. Tokens already in the channel stay readable. A stream that has ended already is left as it
    /// is.
    ///
    /// Inside the operating system's connect a thread cannot be interrupted: the stream ends for its consumer
    /// at once, the thread when its connect timer passes, and it sends nothing.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Blocks until the stream has ended by itself and says how. What bounds the wait are the stream's own
    /// timers.
    ///
    /// The channel has ended by then: what is left in it is all there is. From here on it has no bound, so that joining cannot wait for a reader that is not there:
    /// what the consumer does not take stays in the channel, in memory.
    pub fn join(self) -> StreamReport {
        self.wait()
    }

    pub(super) fn wait(&self) -> StreamReport {
        self.control.join()
    }

    /// The report, if the stream has ended.
    #[must_use]
    pub fn report(&self) -> Option<StreamReport> {
        self.control.report()
    }

    /// Sets what dropping this guard does. Default [`OnDrop::Cancel`].
    pub fn on_drop(mut self, policy: OnDrop) -> Self {
        self.on_drop = policy;
        self
    }

    /// A handle that can cancel the stream from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.control))
    }
}

impl Canceller {
    /// As [`StreamGuard::cancel`].
    pub fn cancel(&self) {
        // Gone: the stream has ended, and its guard.
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

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}
