//! The policy for routes: which of several servers a stream uses.
//!
//! The policy is pure: it takes results, the time and a random number, and returns a choice. A
//! server that fails several times in a row is left out for a while: its breaker is open. Each
//! failed probe makes this time longer. Streams use the server again only after a probe has
//! succeeded.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Timer};

/// The distribution of streams among the servers of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// Uses the first server that works. The other servers are used only when it fails.
    #[default]
    InOrder,
    /// Distributes streams by the weights of the servers.
    ///
    /// Requests with the same [`session`](crate::CompletionRequest::session) go to the same server
    /// as long as this server works, even if different clients send them. While the server does not
    /// work, all these requests go to the same other server. In both cases, the cache of the server
    /// contains the prefix of the requests.
    Weighted,
}

/// The policy for choosing among several servers.
///
/// [`ApiClientBuilder::base_url`](crate::ApiClientBuilder::base_url) adds servers. With one server,
/// there is nothing to choose and failures are not counted.
///
/// Each of these counts as a failure of a server:
///
/// - a connection that fails or ends too early, before or after the first token;
/// - a status of 5xx;
/// - a timer that expires, except the deadline.
///
/// A first token resets the count. Failures that are the fault of the request do not count. A
/// status of 429 does not count either, because it shows that the server is healthy.
///
/// ```
/// use std::time::Duration;
/// use tokenwire::{ApiClient, Balance, RoutePolicy};
///
/// let mut routes = RoutePolicy::default();
/// routes.balance = Balance::Weighted;
/// routes.hedge_after = Some(Duration::from_secs(2));
/// let client = ApiClient::builder("http://127.0.0.1:8000/v1")
///     .base_url("http://127.0.0.1:8001/v1")
///     .weight(2)
///     .routes(routes)
///     .build()?;
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoutePolicy {
    /// How streams are distributed. Default: [`Balance::InOrder`].
    pub balance: Balance,
    /// The number of failures in a row after which a server is left out. Default: 3, at least 1.
    pub breaker_failures: u32,
    /// The shortest time for which a server is left out. Default: 1 s.
    ///
    /// Each failed probe doubles the time.
    pub breaker_min_open: Duration,
    /// The longest time for which a server is left out. Default: 60 s.
    pub breaker_max_open: Duration,
    /// The longest time that a probe waits for an answer. Default: 2 s.
    pub probe_timeout: Duration,
    /// How long a stream waits for its first token before a second request is sent. Default: none.
    ///
    /// This is called hedging. The second request goes to another server if another server works.
    /// The first of the two to produce a token wins, and the other one is cancelled.
    /// [`StreamReport::hedged`](crate::StreamReport::hedged) shows whether a second request was
    /// sent.
    ///
    /// The second request takes one retry from the [`budget`](crate::RetryPolicy::budget), and you
    /// pay for the prompt twice. If the budget is empty, the second request is not sent. Only
    /// streams are hedged, not calls.
    pub hedge_after: Option<Duration>,
}

impl Default for RoutePolicy {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            breaker_failures: 3,
            breaker_min_open: Duration::from_secs(1),
            breaker_max_open: Duration::from_secs(60),
            probe_timeout: Duration::from_secs(2),
            hedge_after: None,
        }
    }
}

/// The servers of a client, each identified by its index in the client's list.
#[derive(Debug)]
pub(crate) struct Routes {
    policy: RoutePolicy,
    routes: Mutex<Vec<Route>>,
}

/// The state of one server.
#[derive(Debug)]
struct Route {
    name: String,
    weight: u32,
    /// The number of failures in a row.
    failures: u32,
    /// The time at which a probe is due, and the time for which the server was left out.
    ///
    /// The field is set while the server is left out.
    open: Option<(Instant, Duration)>,
    probing: bool,
}

/// The server that a stream uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) route: usize,
    /// A server whose probe is due. The caller must make the probe: no other caller makes it.
    pub(crate) probe: Option<usize>,
}

impl Routes {
    /// Creates the routes from the URLs of the servers and their weights.
    pub(crate) fn new(policy: RoutePolicy, names: impl IntoIterator<Item = (String, u32)>) -> Self {
        let route = |(name, weight)| Route { name, weight, failures: 0, open: None, probing: false };
        Self { policy, routes: Mutex::new(names.into_iter().map(route).collect()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Route>> {
        // Nothing panics while it holds this lock.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn policy(&self) -> &RoutePolicy {
        &self.policy
    }

    /// Returns the first server that works, or the first server if none works.
    pub(crate) fn first(&self) -> usize {
        self.lock().iter().position(|route| route.open.is_none()).unwrap_or_default()
    }

    /// Chooses the server for a stream at `now`. `random` is from 0 to 1.
    ///
    /// `tried` lists the servers at which the stream has failed, the latest last. The choice is the
    /// first server of this list that exists:
    ///
    /// 1. a server that works and was not tried;
    /// 2. the working server that was tried longest ago;
    /// 3. a server that is left out. A server that was not tried is preferred, and after that a
    ///    server whose time ends earlier.
    pub(crate) fn choose(&self, session: Option<&str>, tried: &[usize], random: f64, now: Instant) -> Choice {
        let mut routes = self.lock();
        let due = |route: &Route| !route.probing && route.open.is_some_and(|(until, _)| until <= now);
        let probe = routes.iter().position(due);
        if let Some(probe) = probe {
            routes[probe].probing = true;
        }
        let works = |n: &usize| routes[*n].open.is_none();
        let fresh: Vec<usize> = (0..routes.len()).filter(works).filter(|n| !tried.contains(n)).collect();
        let failed = |n: &usize| tried.iter().rposition(|tried| tried == n);
        let until = |n: &usize| routes[*n].open.map(|(until, _)| until);
        let route = if fresh.is_empty() {
            let working = (0..routes.len()).filter(works).min_by_key(failed);
            working.or_else(|| (0..routes.len()).min_by_key(|n| (failed(n).is_some(), until(n), failed(n))))
        } else {
            Some(self.one_of(&routes, &fresh, session, random))
        };
        let route = route.unwrap_or_default();
        Choice { route, probe }
    }

    fn one_of(&self, routes: &[Route], among: &[usize], session: Option<&str>, random: f64) -> usize {
        let first = among.first().copied().unwrap_or_default();
        let weight = |n: usize| f64::from(routes[n].weight.max(1));
        match (self.policy.balance, session) {
            (Balance::InOrder, _) => first,
            // Weighted rendezvous hashing: when a server is lost, sessions at other servers do not
            // move.
            (Balance::Weighted, Some(session)) => {
                let score = |n: usize| -drawn(session, &routes[n].name).ln() / weight(n);
                among.iter().copied().min_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap_or(first)
            }
            (Balance::Weighted, None) => {
                let mut left = random * among.iter().map(|n| weight(*n)).sum::<f64>();
                let taken = among.iter().copied().find(|n| {
                    left -= weight(*n);
                    left < 0.0
                });
                taken.or(among.last().copied()).unwrap_or(first)
            }
        }
    }

    /// Returns true if there is a working server that was not tried.
    pub(crate) fn has_other(&self, tried: &[usize]) -> bool {
        self.lock().iter().enumerate().any(|(n, route)| route.open.is_none() && !tried.contains(&n))
    }

    /// Records that a stream received its first token from this server.
    pub(crate) fn worked(&self, route: usize) {
        if let Some(route) = self.lock().get_mut(route) {
            route.failures = 0;
            route.open = None;
        }
    }

    /// Records that a stream failed at this server.
    pub(crate) fn failed(&self, route: usize, error: &Error, now: Instant) {
        let mut routes = self.lock();
        if routes.len() < 2 || !is_failure(error) {
            return;
        }
        let Some(route) = routes.get_mut(route) else { return };
        route.failures = route.failures.saturating_add(1);
        if route.open.is_none() && route.failures >= self.policy.breaker_failures.max(1) {
            let time = self.policy.breaker_min_open;
            route.open = now.checked_add(time).map(|until| (until, time));
        }
    }

    /// Records the end of a probe that [`choose`](Self::choose) requested.
    pub(crate) fn probed(&self, route: usize, alive: bool, now: Instant) {
        let mut routes = self.lock();
        let Some(route) = routes.get_mut(route) else { return };
        route.probing = false;
        if alive {
            route.failures = 0;
            route.open = None;
        } else if let Some((_, time)) = route.open {
            let time =
                time.saturating_mul(2).clamp(self.policy.breaker_min_open, self.policy.breaker_max_open);
            route.open = now.checked_add(time).map(|until| (until, time));
        }
    }
}

/// Returns true if the error is the fault of the server.
fn is_failure(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Refused | ErrorKind::Incomplete => true,
        ErrorKind::Timeout(timer) => timer != Timer::Deadline,
        ErrorKind::Server | ErrorKind::NotEventStream => error.status().is_some_and(|status| status >= 500),
        _ => false,
    }
}

/// Returns a number from 0 (exclusive) to 1 that depends only on the session and the server.
///
/// The hash is FNV-1a, mixed as in SplitMix64.
fn drawn(session: &str, server: &str) -> f64 {
    let bytes = session.bytes().chain([0]).chain(server.bytes());
    let mut hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    ((hash >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ServerError;

    fn routes(balance: Balance, weights: &[u32]) -> Routes {
        let policy = RoutePolicy { balance, ..RoutePolicy::default() };
        Routes::new(
            policy,
            weights.iter().enumerate().map(|(n, weight)| (format!("http://{n}.test"), *weight)),
        )
    }

    fn status(status: u16) -> Error {
        Error::server(ServerError {
            status: Some(status),
            message: "no".into(),
            kind: None,
            code: None,
            param: None,
        })
    }

    fn fail(routes: &Routes, route: usize, times: u32, now: Instant) {
        (0..times).for_each(|_| routes.failed(route, &status(503), now));
    }

    #[test]
    fn in_order_uses_the_first_working_server_and_leaves_out_a_failing_one() {
        let (routes, now) = (routes(Balance::InOrder, &[1, 1, 1]), Instant::now());
        let at = |tried: &[usize], now| routes.choose(None, tried, 0.5, now).route;
        assert_eq!((at(&[], now), at(&[0], now), at(&[0, 1], now)), (0, 1, 2));
        // All servers were tried, so the server with the earliest failure is next.
        assert_eq!((at(&[0, 1, 2], now), at(&[2, 0, 1], now), at(&[0, 1, 2, 0], now)), (0, 2, 1));
        fail(&routes, 0, 2, now);
        assert_eq!(at(&[], now), 0, "two failures are not enough");
        routes.worked(0);
        fail(&routes, 0, 2, now);
        assert_eq!(at(&[], now), 0, "not in a row");
        fail(&routes, 0, 1, now);
        assert_eq!((at(&[], now), at(&[1], now), at(&[1, 2], now)), (1, 2, 1));
        assert!(routes.has_other(&[1]) && !routes.has_other(&[1, 2]));
        fail(&routes, 1, 3, now + Duration::from_millis(1));
        fail(&routes, 2, 3, now + Duration::from_millis(2));
        assert_eq!((at(&[], now), at(&[0], now)), (0, 1), "all are left out: the one whose time ends first");
    }

    #[test]
    fn a_probe_is_made_once_when_it_is_due_and_closes_the_breaker_or_doubles_its_time() {
        let (routes, start) = (routes(Balance::InOrder, &[1, 1]), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let choose = |now| {
            let Choice { route, probe } = routes.choose(None, &[], 0.5, now);
            (route, probe)
        };
        fail(&routes, 0, 3, start);
        assert_eq!(choose(after(999)), (1, None));
        assert_eq!(choose(after(1_000)), (1, Some(0)));
        assert_eq!(choose(after(1_000)), (1, None), "another caller makes the probe");
        routes.probed(0, false, after(1_100));
        assert_eq!((choose(after(3_099)), choose(after(3_100))), ((1, None), (1, Some(0))));
        routes.probed(0, true, after(3_200));
        assert_eq!(choose(after(3_200)), (0, None));
        // The time starts at its minimum again, and doubles up to its maximum.
        fail(&routes, 0, 3, start);
        let (mut now, mut waits) = (start, Vec::new());
        for _ in 0..9 {
            let until = routes.lock()[0].open.unwrap().0;
            waits.push((until - now).as_secs());
            now = until;
            assert_eq!(choose(now).1, Some(0));
            routes.probed(0, false, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn only_failures_of_the_server_count() {
        let now = Instant::now();
        for (error, counts) in [
            (status(500), true),
            (status(503), true),
            (status(429), false),
            (status(400), false),
            (Error::new(ErrorKind::Refused, "no"), true),
            (Error::new(ErrorKind::Connect, "no"), true),
            (Error::new(ErrorKind::Incomplete, "no"), true),
            (Error::timeout(Timer::FirstToken, Duration::ZERO), true),
            (Error::timeout(Timer::Deadline, Duration::ZERO), false),
            (Error::protocol("no"), false),
            (Error::cancelled(), false),
        ] {
            let routes = routes(Balance::InOrder, &[1, 1]);
            (0..3).for_each(|_| routes.failed(0, &error, now));
            assert_eq!(routes.choose(None, &[], 0.5, now).route == 1, counts, "{error}");
        }
        // A single server has no replacement.
        let alone = routes(Balance::InOrder, &[1]);
        fail(&alone, 0, 9, now);
        assert_eq!(alone.choose(None, &[0], 0.5, now), Choice { route: 0, probe: None });
    }

    #[test]
    fn with_weights_a_session_moves_only_when_its_server_fails() {
        let (routes, now) = (routes(Balance::Weighted, &[1, 2, 1]), Instant::now());
        let at = |session: &str| routes.choose(Some(session), &[], 0.0, now).route;
        let sessions: Vec<String> = (0..4_000).map(|n| format!("session-{n}")).collect();
        let before: Vec<usize> = sessions.iter().map(|session| at(session)).collect();
        let share = |placed: &[usize], n| placed.iter().filter(|at| **at == n).count();
        for (n, expected) in [(0, 1_000), (1, 2_000), (2, 1_000)] {
            assert!(share(&before, n).abs_diff(expected) < 150, "{n}: {}", share(&before, n));
        }
        fail(&routes, 0, 3, now);
        let after: Vec<usize> = sessions.iter().map(|session| at(session)).collect();
        for (before, after) in before.iter().zip(&after) {
            assert!(after == before || *before == 0, "a session of a working server moved");
        }
        assert_eq!(share(&after, 0), 0);
        // Without a session, the random number decides.
        let by_random: Vec<usize> =
            (0..300).map(|n| routes.choose(None, &[], f64::from(n) / 300.0, now).route).collect();
        assert_eq!((share(&by_random, 1), share(&by_random, 2)), (200, 100));
        assert_eq!(routes.choose(None, &[], 1.0, now).route, 2);
    }
}
