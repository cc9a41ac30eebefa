//! Looks up host names, with a small cache. A cancel or a timer can interrupt the wait for a
//! lookup.
//!
//! ureq calls its resolver before each request, even for a pooled connection. ureq's own resolver
//! has no cache. This resolver works as follows:
//!
//! - IP addresses need no lookup.
//! - The addresses of a name are kept for [`TTL`].
//! - A lookup runs on a detached thread, because nothing can interrupt `getaddrinfo`. A stream that
//!   waits for the lookup can be interrupted.
//! - Streams that need the same name share one lookup.
//! - At most [`MAX_LOOKUPS`] lookups run at a time. Further names wait in a queue.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Sender, after, bounded, never, select};
use ureq::Error;
use ureq::config::Config;

use super::Uri;
use super::slot::CancelSlot;
use super::tap::{cancelled, current_slot, cut};
use super::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use super::unversioned::transport::NextTimeout;
use crate::error::macros::debug_fields;

/// The time for which the addresses of a name are kept.
///
/// The time is short, because the addresses of a cluster may change between two requests.
const TTL: Duration = Duration::from_secs(10);
/// Limits the addresses that are kept for a name. ureq has room for 16.
const MAX_ADDRESSES: usize = 16;
/// Limits the names in the cache. A full cache is emptied. A client usually needs only a few names.
const MAX_NAMES: usize = 64;
/// Limits how many lookups run at the same time, each on its own thread.
///
/// This limits the number of threads if the system's resolver hangs.
const MAX_LOOKUPS: usize = 8;
/// The stack size of a lookup thread, which only calls `getaddrinfo`.
///
/// glibc's version of this function needs a larger stack than other versions.
const STACK_BYTES: usize = 256 << 10;

type Answer = Result<Vec<SocketAddr>, String>;
type Key = (String, u16);
type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

#[derive(Debug)]
pub(super) struct CachingResolver(Arc<Names>);

struct Names {
    /// The function that looks up a name: the system's function, or a slow or silent function in
    /// tests.
    look_up: Box<LookUp>,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: HashMap<Key, Entry>,
    /// The requested names whose lookups have not started.
    queue: VecDeque<Key>,
    threads: usize,
}

enum Entry {
    Known {
        addresses: Vec<SocketAddr>,
        until: Instant,
    },
    /// The name is in the queue, or a thread is looking it up. The thread sends the result to these
    /// senders.
    Asked(Vec<Sender<Answer>>),
}

impl Default for CachingResolver {
    fn default() -> Self {
        Self::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect), TTL)
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let slot = current_slot();
        let host = uri.host().ok_or(Error::HostNotFound)?.trim_matches(['[', ']']);
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => self.look_up(host, port, cut(timeout, slot.as_deref())?, slot.as_deref())?,
        };
        let mut out = self.empty();
        for address in config.ip_family().keep_wanted(addresses.into_iter()).take(MAX_ADDRESSES) {
            out.push(address);
        }
        if out.is_empty() { Err(Error::HostNotFound) } else { Ok(out) }
    }
}

impl CachingResolver {
    pub(super) fn new(
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
        ttl: Duration,
    ) -> Self {
        Self(Arc::new(Names { look_up: Box::new(look_up), ttl, state: Mutex::default() }))
    }

    fn look_up(
        &self,
        host: &str,
        port: u16,
        timeout: NextTimeout,
        slot: Option<&CancelSlot>,
    ) -> Result<Vec<SocketAddr>, Error> {
        let key = (host.to_owned(), port);
        let (sender, answer) = bounded(1);
        let mut state = self.0.lock();
        match state.names.get_mut(&key) {
            Some(Entry::Known { addresses, until }) if Instant::now() < *until => {
                return Ok(addresses.clone());
            }
            Some(Entry::Asked(waiting)) => waiting.push(sender.clone()),
            _ => self.0.ask(&mut state, &key, sender.clone())?,
        }
        drop(state);

        let late = if timeout.after.is_not_happening() { never() } else { after(*timeout.after) };
        let never = never();
        let woken = slot.map_or(&never, CancelSlot::woken);
        let left = select! {
            recv(answer) -> answer => return match answer {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(message)) => Err(io::Error::new(io::ErrorKind::NotFound, message).into()),
                Err(_) => Err(Error::HostNotFound),
            },
            recv(woken) -> _ => cancelled(),
            recv(late) -> _ => Error::Timeout(timeout.reason),
        };
        // Remove the sender of this stream. Also remove the queued name if no other stream waits
        // for it. Otherwise, senders and names would accumulate during a lookup that never ends.
        let State { names, queue, .. } = &mut *self.0.lock();
        if let Some(Entry::Asked(waiting)) = names.get_mut(&key) {
            waiting.retain(|other| !other.same_channel(&sender));
            let unbegun = queue.iter().position(|queued| *queued == key).filter(|_| waiting.is_empty());
            if unbegun.and_then(|place| queue.remove(place)).is_some() {
                names.remove(&key);
            }
        }
        Err(left)
    }
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Lookups run outside the lock, so no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lookup of `key` to the queue, and starts another thread if the limit allows it.
    fn ask(self: &Arc<Self>, state: &mut State, key: &Key, sender: Sender<Answer>) -> io::Result<()> {
        if state.names.len() >= MAX_NAMES {
            state.names.retain(|_, entry| matches!(entry, Entry::Asked(_)));
        }
        if state.threads < MAX_LOOKUPS {
            let names = self.clone();
            let builder = thread::Builder::new().name("tokenwire-lookup".to_owned()).stack_size(STACK_BYTES);
            builder.spawn(move || names.work())?;
            state.threads += 1;
        }
        state.queue.push_back(key.clone());
        state.names.insert(key.clone(), Entry::Asked(vec![sender]));
        Ok(())
    }

    /// Looks up the queued names one by one, and sends each result to the streams that wait for it.
    fn work(&self) {
        let mut state = self.lock();
        while let Some(key) = state.queue.pop_front() {
            drop(state);
            let found = catch_unwind(AssertUnwindSafe(|| (self.look_up)(&key.0, key.1)));
            let answer: Answer = match found {
                Ok(Ok(mut addresses)) => {
                    addresses.truncate(MAX_ADDRESSES);
                    Ok(addresses)
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the lookup panicked".to_owned()),
            };
            state = self.lock();
            let waiting = match &answer {
                Ok(addresses) => {
                    let until = Instant::now() + self.ttl;
                    state.names.insert(key, Entry::Known { addresses: addresses.clone(), until })
                }
                Err(_) => state.names.remove(&key),
            };
            if let Some(Entry::Asked(waiting)) = waiting {
                for sender in waiting {
                    // The channel has room for one result. The stream may have stopped waiting in
                    // the meantime.
                    let _ = sender.try_send(answer.clone());
                }
            }
        }
        state.threads -= 1;
    }
}

debug_fields! { Names { ttl } }

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::{Receiver, unbounded};
    use ureq::Timeout;

    use super::*;
    use crate::client::http::slot::Wait;
    use crate::error::Timer;

    const LONG: Duration = Duration::from_secs(20);

    /// A resolver whose lookups report their start and wait until the test releases them.
    ///
    /// `count` is the number of lookups that have started.
    struct Gated {
        resolver: Arc<CachingResolver>,
        begun: Receiver<String>,
        let_go: Sender<io::Result<()>>,
        count: Arc<AtomicUsize>,
    }

    fn gated(ttl: Duration) -> Gated {
        let ((begin, begun), (let_go, go)) = (unbounded(), unbounded::<io::Result<()>>());
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let resolver = CachingResolver::new(
            move |host, port| {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = begin.send(host.to_owned());
                // If the test has dropped `let_go`, the lookup returns at once.
                go.recv().unwrap_or(Ok(())).map(|()| vec![SocketAddr::from(([127, 0, 0, 1], port))])
            },
            ttl,
        );
        Gated { resolver: Arc::new(resolver), begun, let_go, count }
    }

    type Found = Result<Vec<SocketAddr>, Error>;

    impl Gated {
        /// Looks up `host` on another thread.
        fn ask(&self, host: &str, timeout: NextTimeout, slot: Option<&Arc<CancelSlot>>) -> Receiver<Found> {
            let (resolver, host, slot) = (self.resolver.clone(), host.to_owned(), slot.cloned());
            let (said, found) = unbounded();
            thread::spawn(move || {
                let uri: Uri = format!("http://{host}:80/").parse().unwrap();
                let look_up = || resolver.resolve(&uri, &Config::default(), timeout);
                let found = match &slot {
                    Some(slot) => crate::client::http::tap::with_slot(slot, Vec::new(), look_up),
                    None => look_up(),
                };
                let _ = said.send(found.map(|addresses| addresses.to_vec()));
            });
            found
        }

        fn waiting(&self) -> usize {
            let state = self.resolver.0.lock();
            let waiting = |entry: &Entry| if let Entry::Asked(waiting) = entry { waiting.len() } else { 0 };
            state.names.values().map(waiting).sum()
        }

        fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
            let end = Instant::now() + LONG;
            while !done(self) {
                assert!(Instant::now() < end, "{what} did not happen");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn within(limit: Option<Duration>) -> NextTimeout {
        let after = limit
            .map_or(crate::client::http::unversioned::transport::time::Duration::NotHappening, Into::into);
        NextTimeout { after, reason: Timeout::Resolve, ..NextTimeout::default() }
    }

    #[test]
    fn a_stream_leaves_a_hanging_lookup_for_each_reason() {
        let short = Some(Duration::from_millis(30));
        for (reason, limit, wait) in [
            ("cancelled", None, None),
            ("cancelled before its timers", Some(LONG * 9), Some(LONG * 9)),
            ("its own timer", short, None),
            ("its own timer, the nearest", short, Some(LONG * 9)),
            ("the stream's timer", Some(LONG * 9), short),
        ] {
            let gated = gated(TTL);
            let slot = CancelSlot::new();
            slot.begin(wait.map(|limit| Wait::since(Instant::now(), limit, Timer::FirstToken)));
            let found = gated.ask("silent.test", within(limit), Some(&slot));
            gated.begun.recv_timeout(LONG).unwrap();
            if reason.starts_with("cancelled") {
                slot.cancel();
            }
            let error = found.recv_timeout(LONG).expect(reason).expect_err(reason);
            let right = match reason {
                "the stream's timer" => matches!(error, Error::Timeout(Timeout::PerRead)),
                _ if reason.starts_with("its own") => matches!(error, Error::Timeout(Timeout::Resolve)),
                _ => matches!(error, Error::Io(_)),
            };
            assert!(right, "{reason}: {error:?}");
            assert_eq!(gated.waiting(), 0, "{reason}: the waiter was not removed");
            // The result arrives too late for this request, but in time for the next request.
            gated.let_go.send(Ok(())).unwrap();
            gated.until("an answer", |gated| gated.resolver.0.lock().threads == 0);
            assert_eq!(
                gated.ask("silent.test", within(None), None).recv_timeout(LONG).unwrap().unwrap().len(),
                1
            );
            assert_eq!(gated.count.load(Ordering::SeqCst), 1, "{reason}: looked up again");
        }
    }

    #[test]
    fn names_are_kept_for_the_ttl_failures_are_not_and_addresses_need_no_lookup() {
        for (name, host, ttl, fails, lookups) in [
            ("kept", "name.test", LONG, false, 1),
            ("expired", "name.test", Duration::ZERO, false, 3),
            ("failed", "name.test", LONG, true, 3),
            ("IPv4", "127.0.0.1", LONG, false, 0),
            ("IPv6", "[::1]", LONG, false, 0),
        ] {
            let gated = gated(ttl);
            for _ in 0..3 {
                let fault = || io::Error::other("no such name");
                gated.let_go.send(if fails { Err(fault()) } else { Ok(()) }).unwrap();
                let found = gated.ask(host, within(None), None).recv_timeout(LONG).unwrap();
                assert_eq!(found.is_err(), fails, "{name}: {found:?}");
            }
            assert_eq!(gated.count.load(Ordering::SeqCst), lookups, "{name}");
        }
    }

    #[test]
    fn streams_that_need_the_same_name_share_a_lookup() {
        let gated = gated(TTL);
        let found: Vec<_> = (0..20).map(|_| gated.ask("shared.test", within(None), None)).collect();
        gated.until("the wait of all twenty streams", |gated| gated.waiting() == 20);
        gated.let_go.send(Ok(())).unwrap();
        for found in found {
            assert_eq!(found.recv_timeout(LONG).unwrap().unwrap().len(), 1);
        }
        assert_eq!(gated.count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn at_most_max_lookups_run_at_once() {
        let gated = gated(TTL);
        let names = MAX_LOOKUPS * 3;
        let ask = |n| gated.ask(&format!("name-{n}.test"), within(None), None);
        let found: Vec<_> = (0..names).map(ask).collect();
        gated.until("the wait of all streams", |gated| gated.waiting() == names);
        for _ in 0..MAX_LOOKUPS {
            gated.begun.recv_timeout(LONG).unwrap();
        }
        assert!(gated.begun.recv_timeout(Duration::from_millis(20)).is_err(), "one more lookup");
        // A queued name is removed if the only stream that waits for it stops waiting.
        let left = gated.ask("left.test", within(Some(Duration::from_millis(1))), None);
        assert!(left.recv_timeout(LONG).unwrap().is_err());
        assert_eq!(gated.resolver.0.lock().names.len(), names);
        assert_eq!(gated.resolver.0.lock().threads, MAX_LOOKUPS);
        for _ in 0..names {
            gated.let_go.send(Ok(())).unwrap();
        }
        for found in found {
            found.recv_timeout(LONG).unwrap().unwrap();
        }
        gated.until("the end of all threads", |gated| gated.resolver.0.lock().threads == 0);
    }
}
