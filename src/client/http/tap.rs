//! Adds features that ureq lacks, in one thin layer around its connectors and transports.
//!
//! | need | how |
//! | --- | --- |
//! | cancel one stream | the stream's [`CancelSlot`] (its cancel state) gets the shutdown handle of the socket |
//! | a limit that changes during the response | the slot's [`Wait`](super::slot::Wait) shortens every wait |
//! | a limit on a whole write, because ureq restarts its own limit after each part | an [alarm](crate::client::threads::alarm) shuts the socket down |
//! | a limit on silence that the bytes of HTTP framing do not restart | one limit covers all socket reads of one body read |
//! | detect whether a connection was used before | the transport stores a flag |
//! | no credentials in logs | ureq gets asterisks; the real values replace the asterisks when the head is sent |
//!
//! The slot is stored in a thread-local for the duration of the call. ureq runs the resolver, the
//! connector and the transport on the calling thread. A request has no other way to pass data to a
//! pooled transport. ureq's semver promise does not cover connectors and transports, so this crate
//! uses them through `unversioned` only.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ureq::{Error, Timeout};

use super::slot::CancelSlot;
use super::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, ShutdownHandle, Transport,
};
use super::{HeaderMap, HeaderName, HeaderValue};
use crate::client::threads::alarm::{Alarm, Alarms};

/// The headers whose values ureq does not get, because ureq-proto logs the whole head at trace
/// level.
pub(super) type Hidden = Vec<(HeaderName, HeaderValue)>;

struct Current {
    slot: Arc<CancelSlot>,
    /// The hidden headers that are not sent yet.
    hidden: Hidden,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Runs `call`, which makes a request on this thread. Sets `slot` and `hidden` for this request.
///
/// `hidden` contains the values of the headers that [`hide`] has replaced.
pub(super) fn with_slot<T>(slot: &Arc<CancelSlot>, hidden: Hidden, call: impl FnOnce() -> T) -> T {
    struct Reset(Option<Current>);
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.with(|current| *current.borrow_mut() = self.0.take());
        }
    }
    let new = Current { slot: slot.clone(), hidden };
    let _reset = Reset(CURRENT.with(|current| current.borrow_mut().replace(new)));
    call()
}

pub(super) fn current_slot() -> Option<Arc<CancelSlot>> {
    CURRENT.with(|current| current.borrow().as_ref().map(|current| current.slot.clone()))
}

/// Replaces the credentials in `head`, and returns them.
///
/// Each value that is marked as sensitive becomes asterisks of the same length.
pub(super) fn hide(head: &mut HeaderMap) -> Hidden {
    let mut hidden = Vec::new();
    for (name, value) in head.iter_mut().filter(|(_, value)| value.is_sensitive()) {
        if let Ok(mut stars) = HeaderValue::from_str(&"*".repeat(value.len())) {
            stars.set_sensitive(true);
            hidden.push((name.clone(), std::mem::replace(value, stars)));
        }
    }
    hidden
}

/// Puts the hidden values back into the bytes to send.
///
/// ureq never splits a header between two buffers.
fn reveal(output: &mut [u8], hidden: &mut Hidden) {
    if hidden.is_empty() {
        return;
    }
    for line in output.split_mut(|byte| *byte == b'\n') {
        let is_of = |(name, value): &(HeaderName, HeaderValue)| {
            let rest = line.strip_prefix(name.as_str().as_bytes()).and_then(|rest| rest.strip_prefix(b": "));
            rest.is_some_and(|rest| {
                rest.len() == value.len() + 1 && rest[..value.len()].iter().all(|b| *b == b'*')
            })
        };
        if let Some((name, value)) = hidden.iter().position(is_of).map(|place| hidden.remove(place)) {
            let start = name.as_str().len() + 2;
            line[start..start + value.len()].copy_from_slice(value.as_bytes());
        }
    }
}

/// Returns the error for ureq when the slot is cancelled.
///
/// This error is never shown, because the caller checks the slot first.
pub(super) fn cancelled() -> Error {
    Error::Io(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled"))
}

/// Shortens `timeout` to the limit of the slot.
///
/// Returns an error if no time is left, because ureq's own transport would treat zero as one
/// second.
pub(super) fn cut(timeout: NextTimeout, slot: Option<&CancelSlot>) -> Result<NextTimeout, Error> {
    let mut timeout = timeout;
    if let Some(slot) = slot {
        if let Some(left) = slot.begin_wait().map(Into::into) {
            if left < timeout.after {
                timeout.after = left;
                timeout.reason = Timeout::PerRead;
            }
        }
        // Only this function sets the reason `PerRead`. ureq calls this function twice when it
        // connects through a proxy.
        slot.set_wait_is_nearest(timeout.reason == Timeout::PerRead);
    }
    if timeout.after.is_zero() { Err(Error::Timeout(timeout.reason)) } else { Ok(timeout) }
}

/// Subtracts the time of the name lookup from the limit on the connection.
///
/// ureq restarts its timer after the lookup.
fn since_lookup(details: &ConnectionDetails<'_>, slot: Option<&CancelSlot>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Some(limit), Some(slot)) = (details.config.timeouts().connect, slot) {
        timeout.after = timeout.after.min(limit.saturating_sub(slot.began().elapsed()).into());
    }
    timeout
}

#[derive(Debug)]
pub(super) struct TapConnector {
    inner: Box<dyn Connector<(), Out = Box<dyn Transport>>>,
    alarms: Arc<Alarms>,
}

impl TapConnector {
    pub(super) fn new(alarms: Arc<Alarms>) -> Self {
        Self { inner: Box::new(DefaultConnector::default()), alarms }
    }

    /// Uses the connector `inner` instead of network connections.
    #[cfg(feature = "testing")]
    pub(super) fn over(self, inner: impl Connector<(), Out = Box<dyn Transport>>) -> Self {
        Self { inner: Box::new(inner), ..self }
    }
}

impl Connector<()> for TapConnector {
    type Out = TapTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<TapTransport>, Error> {
        let slot = current_slot();
        let socket: Arc<Mutex<Option<Weak<dyn ShutdownHandle>>>> = Arc::default();
        let register = {
            let (forward, socket, slot) = (details.register_shutdown.clone(), socket.clone(), slot.clone());
            move |handle: Weak<dyn ShutdownHandle>| {
                forward(handle.clone())?;
                if slot.as_ref().is_some_and(|slot| !slot.attach(&handle)) {
                    return Err(cancelled());
                }
                *socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
                Ok(())
            }
        };
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            resolver: details.resolver,
            config: details.config,
            request_level: details.request_level,
            now: details.now,
            timeout: cut(since_lookup(details, slot.as_deref()), slot.as_deref())?,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: Arc::new(register),
        };
        if slot.as_ref().is_some_and(|slot| !slot.begin_connect()) {
            return Err(cancelled());
        }
        let connected = self.inner.connect(&details, chained);
        if let Some(slot) = &slot {
            slot.end_connect();
        }
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(connected?.map(|inner| TapTransport {
            inner,
            socket,
            alarms: self.alarms.clone(),
            slot: None,
            used: false,
        }))
    }
}

#[derive(Debug)]
pub(super) struct TapTransport {
    inner: Box<dyn Transport>,
    socket: Option<Weak<dyn ShutdownHandle>>,
    alarms: Arc<Alarms>,
    /// The slot of the request that currently uses the connection.
    slot: Option<Arc<CancelSlot>>,
    /// True if an earlier request was sent on this connection.
    used: bool,
}

impl TapTransport {
    fn shut_down_after(&self, limit: Duration) -> Option<Alarm> {
        let socket = self.socket.clone()?;
        let at = Instant::now().checked_add(limit)?;
        self.alarms.set(at, move || {
            if let Some(socket) = socket.upgrade() {
                socket.shutdown();
            }
        })
    }
}

impl Transport for TapTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    /// Sends the output buffer. Every request makes this call first on its connection.
    ///
    /// The connection may be new or pooled.
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.slot.is_none() {
            if let (Some(slot), Some(socket)) = (current_slot(), &self.socket) {
                if !slot.attach(socket) {
                    return Err(cancelled());
                }
                slot.set_sent(std::mem::replace(&mut self.used, true));
                self.slot = Some(slot);
            }
        }
        CURRENT.with(|current| {
            if let Some(current) = &mut *current.borrow_mut() {
                reveal(&mut self.inner.buffers().output()[..amount], &mut current.hidden);
            }
        });
        let timeout = cut(timeout, self.slot.as_deref())?.for_write();
        // ureq writes until everything is written. It restarts its timer after each part that the
        // operating system accepts. The alarm limits the whole write because it shuts the socket
        // down. No other request can use this socket: the error keeps the socket out of the pool.
        let alarm = self.shut_down_after(*timeout.after);
        let result = self.inner.transmit_output(amount, timeout);
        let in_time = alarm.is_none_or(Alarm::take_back);
        if in_time { result } else { Err(Error::Timeout(timeout.reason)) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let came = self.inner.await_input(cut(timeout, self.slot.as_deref())?)?;
        if let (true, Some(slot)) = (came, &self.slot) {
            slot.set_answered();
        }
        Ok(came)
    }

    /// Returns true if the connection is open.
    ///
    /// Only ureq's pool calls this function: before a connection becomes idle, and again before the
    /// connection leaves the pool.
    fn is_open(&mut self) -> bool {
        if let Some(slot) = self.slot.take() {
            slot.detach();
        }
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::fmt;

    use crossbeam_channel::{Receiver, Sender, bounded};

    use super::*;
    use crate::client::http::slot::Wait;
    use crate::client::http::unversioned::transport::LazyBuffers;
    use crate::error::Timer;

    const LONG: Duration = Duration::from_secs(20);

    /// A socket whose writes make progress but never end.
    ///
    /// The timer of a write therefore never expires. Only a shutdown ends the writes.
    struct Trickle {
        buffers: LazyBuffers,
        shut: Receiver<()>,
    }

    struct Shut(Sender<()>);

    impl ShutdownHandle for Shut {
        fn shutdown(&self) {
            let _ = self.0.try_send(());
        }
    }

    impl fmt::Debug for Trickle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Trickle")
        }
    }

    impl Transport for Trickle {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
            // An empty write succeeds.
            if amount > 0 {
                self.shut.recv_timeout(LONG).expect("the write waits forever");
                return Err(Error::Io(io::ErrorKind::BrokenPipe.into()));
            }
            Ok(())
        }

        fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
            Ok(false)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn the_nearest_timer_ends_a_write_that_never_completes() {
        let short = Some(Duration::from_millis(30));
        for (name, after, per_write, wait, ends) in [
            ("write", None, short, None, Timeout::PerWrite),
            ("write, before the stream's", None, short, Some(LONG * 9), Timeout::PerWrite),
            ("the stream's", None, Some(LONG * 9), short, Timeout::PerRead),
            ("the stream's alone", None, None, short, Timeout::PerRead),
            ("the call's", short, Some(LONG * 9), Some(LONG * 9), Timeout::SendBody),
        ] {
            let (shutting, shut) = bounded(1);
            let handle = Arc::new(Shut(shutting));
            let socket: Weak<dyn ShutdownHandle> = Arc::<Shut>::downgrade(&handle);
            let inner = Box::new(Trickle { buffers: LazyBuffers::new(100, 100), shut });
            let alarms = Alarms::new();
            let mut tap = TapTransport { inner, socket: Some(socket), alarms, slot: None, used: false };
            let slot = CancelSlot::new();
            slot.begin(wait.map(|limit| Wait::since(Instant::now(), limit, Timer::Deadline)));
            let mut timeout = NextTimeout { reason: Timeout::SendBody, ..NextTimeout::default() };
            timeout.after = after.unwrap_or(LONG * 99).into();
            timeout.per_write = per_write.map(Into::into);
            with_slot(&slot, Vec::new(), || {
                // A write that ends in time must not affect the next write.
                assert!(tap.transmit_output(0, timeout).is_ok(), "{name}");
                match tap.transmit_output(50, timeout) {
                    Err(Error::Timeout(reason)) => assert_eq!(reason, ends, "{name}"),
                    other => panic!("{name}: {other:?}"),
                }
            });
        }
    }
}
