//! Name lookup that a cancel and every timer can leave, with a small cache.
//!
//! ureq asks its resolver before each request, pooled connection or not, and its own keeps no cache. Here
//! literals cost nothing, names are kept for [`TTL`], and a lookup runs on a detached thread: `getaddrinfo`
//! cannot be interrupted, the stream that waits for it can. Streams that want the same name share one lookup.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, after, bounded, never, select};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::slot::CancelSlot;
use super::tap::{cancelled, current_slot, cut};

/// How long a name's addresses are believed. Short: a cluster's name may move between two requests.
const TTL: Duration = Duration::from_secs(10);
/// How many addresses of a name are kept; ureq has room for 16.
const ADDRESSES_MAX: usize = 16;
/// How many names are kept. A client talks to a handful.
const NAMES_MAX: usize = 64;
/// A lookup thread calls `getaddrinfo` and nothing else; glibc's wants some room.
const STACK_BYTES: usize = 256 << 10;

type Answer = Result<Vec<SocketAddr>, String>;

#[derive(Debug, Default)]
pub(super) struct CachingResolver {
    names: Arc<Mutex<HashMap<(String, u16), Entry>>>,
}

#[derive(Debug)]
enum Entry {
    Known {
        addresses: Vec<SocketAddr>,
        until: Instant,
    },
    /// A thread is asking; these wait for its answer.
    Asked(Vec<Sender<Answer>>),
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
        for address in config.ip_family().keep_wanted(addresses.into_iter()).take(ADDRESSES_MAX) {
            out.push(address);
        }
        if out.is_empty() { Err(Error::HostNotFound) } else { Ok(out) }
    }
}

impl CachingResolver {
    fn look_up(
        &self,
        host: &str,
        port: u16,
        timeout: NextTimeout,
        slot: Option<&CancelSlot>,
    ) -> Result<Vec<SocketAddr>, Error> {
        let key = (host.to_owned(), port);
        let (sender, answer) = bounded(1);
        let mut names = lock(&self.names);
        match names.get_mut(&key) {
            Some(Entry::Known { addresses, until }) if Instant::now() < *until => {
                return Ok(addresses.clone());
            }
            Some(Entry::Asked(waiting)) => waiting.push(sender),
            _ => {
                if names.len() >= NAMES_MAX {
                    names.retain(|_, entry| matches!(entry, Entry::Asked(_)));
                }
                names.insert(key.clone(), Entry::Asked(vec![sender]));
                if let Err(error) = ask(self.names.clone(), key.clone()) {
                    names.remove(&key);
                    return Err(error.into());
                }
            }
        }
        drop(names);

        let late = if timeout.after.is_not_happening() { never() } else { after(*timeout.after) };
        let never = never();
        let woken = slot.map_or(&never, CancelSlot::woken);
        select! {
            recv(answer) -> answer => match answer {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(message)) => Err(io::Error::new(io::ErrorKind::NotFound, message).into()),
                Err(_) => Err(Error::HostNotFound),
            },
            recv(woken) -> _ => Err(cancelled()),
            recv(late) -> _ => Err(Error::Timeout(timeout.reason)),
        }
    }
}

/// Starts the thread that asks for `key` and hands the answer to everybody who waits.
fn ask(names: Arc<Mutex<HashMap<(String, u16), Entry>>>, key: (String, u16)) -> io::Result<()> {
    let builder = thread::Builder::new().name("tokenwire-lookup".to_owned()).stack_size(STACK_BYTES);
    let look_up = move || {
        let answer: Answer = (key.0.as_str(), key.1)
            .to_socket_addrs()
            .map(|found| found.take(ADDRESSES_MAX).collect())
            .map_err(|error| error.to_string());
        let mut names = lock(&names);
        let waiting = match &answer {
            Ok(addresses) => {
                let known = Entry::Known { addresses: addresses.clone(), until: Instant::now() + TTL };
                names.insert(key, known)
            }
            Err(_) => names.remove(&key),
        };
        drop(names);
        if let Some(Entry::Asked(waiting)) = waiting {
            for sender in waiting {
                // The one who waited may have been cancelled meanwhile.
                let _ = sender.send(answer.clone());
            }
        }
    };
    builder.spawn(look_up).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
