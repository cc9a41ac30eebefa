//! Which of several servers a stream goes to: order or weights, health, affinity.
//!
//! Pure: takes results, the time and a random number, returns a choice. A server that fails several times in a row is left out
//! for a while (its breaker is open), longer each time; after that a probe has to find it alive before streams go to it again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Timer};

/// How streams are shared out among the servers of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// To the first that works: the others are for when it fails.
    #[default]
    InOrder,
    /// By weight. Requests with one [`session`](crate::CompletionRequest::session) go to the same server as long as it works,
    /// whichever client sends them, and to the same other one when it does not: its cache has their prefix.
    Weighted,
}

/// How a client chooses among several servers; see [`ApiClientBuilder::base_url`](crate::ApiClientBuilder::base_url).
///
/// A server fails by a connection that fails or ends too early, before the first token or after it, a status of 5xx, or a timer; each
/// of these in a row counts, a first token sets the count back. What is the request's fault, and a 429, which says that the
/// server is well, do not count. With one server there is no choice, and nothing is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoutePolicy {
    /// How streams are shared out. Default [`Balance::InOrder`].
    pub balance: Balance,
    /// Failures in a row after which a server is left out. Default 3, at least 1.
    pub breaker_failures: u32,
    /// How long it is left out the first time; each failed probe doubles it. Default 1 s.
    pub breaker_min_open: Duration,
    /// The longest that it is left out. Default 60 s.
    pub breaker_max_open: Duration,
    /// The longest that a probe waits for an answer. Default 2 s.
    pub probe_timeout: Duration,
    /// Hedging: a stream that has no token after this long is asked for a second time, at another server if there is one that
    /// works. The request with the first token goes on, the other is cancelled; [`StreamReport::hedged`](crate::StreamReport::hedged)
    /// tells. It costs one of the [`budget`](crate::RetryPolicy::budget), and the prompt once more; where that is empty none is
    /// sent. Streams only, not calls. Default none.
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

/// The servers of a client, by their place in its list.
#[derive(Debug)]
pub(crate) struct Routes {
    policy: RoutePolicy,
    routes: Mutex<Vec<Route>>,
}

/// What is known of one server.
#[derive(Debug)]
struct Route {
    name: String,
    weight: u32,
    /// In a row.
    failures: u32,
    /// Left out until a probe, which may be made from then on, finds it alive; and how long that was.
    open: Option<(Instant, Duration)>,
    probing: bool,
}

/// Where a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) route: usize,
    /// A server whose probe is due: it is the caller's to make, and nobody else's.
    pub(crate) probe: Option<usize>,
}

impl Routes {
    /// `names` are the servers' URLs, with their weights.
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

    /// The first that works, or, if none does, the first.
    pub(crate) fn first(&self) -> usize {
        self.lock().iter().position(|route| route.open.is_none()).unwrap_or_default()
    }

    /// Where a stream goes at `now` that has failed at `tried`, last at the last of them. Best a server that works and was not
    /// tried; then the one that works and was tried longest ago; when all are left out, the one whose time is up first, for
    /// trying is all that is left. `random` is from 0 to 1.
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
            // Weighted rendezvous hashing: of the others, none changes its place when one goes.
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

    /// Whether some server works that was not tried.
    pub(crate) fn has_other(&self, tried: &[usize]) -> bool {
        self.lock().iter().enumerate().any(|(n, route)| route.open.is_none() && !tried.contains(&n))
    }

    /// A stream came to its first token there.
    pub(crate) fn worked(&self, route: usize) {
        if let Some(route) = self.lock().get_mut(route) {
            route.failures = 0;
            route.open = None;
        }
    }

    /// A stream failed there.
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

    /// The probe that [`choose`](Self::choose) asked for has ended.
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

/// Whether the server is to blame.
fn is_failure(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Refused | ErrorKind::Incomplete => true,
        ErrorKind::Timeout(timer) => timer != Timer::Deadline,
        ErrorKind::Server | ErrorKind::NotEventStream => error.status().is_some_and(|status| status >= 500),
        _ => false,
    }
}

/// A number from 0 (not included) to 1 that is drawn for this pair, the same everywhere: FNV-1a, mixed as in SplitMix64.
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
    fn in_order_the_first_that_works_is_taken_and_a_failing_one_left_out() {
        let (routes, now) = (routes(Balance::InOrder, &[1, 1, 1]), Instant::now());
        let at = |tried: &[usize], now| routes.choose(None, tried, 0.5, now).route;
        assert_eq!((at(&[], now), at(&[0], now), at(&[0, 1], now)), (0, 1, 2));
        // All were tried: the one that failed longest ago.
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
        assert_eq!((at(&[], now), at(&[0], now)), (0, 1), "all are left out: whose time is up first");
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
        assert_eq!(choose(after(1_000)), (1, None), "somebody makes it already");
        routes.probed(0, false, after(1_100));
        assert_eq!((choose(after(3_099)), choose(after(3_100))), ((1, None), (1, Some(0))));
        routes.probed(0, true, after(3_200));
        assert_eq!(choose(after(3_200)), (0, None));
        // From the beginning again, up to the longest.
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
    fn only_a_failure_of_the_server_counts() {
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
        // One alone has nobody to give way to.
        let alone = routes(Balance::InOrder, &[1]);
        fail(&alone, 0, 9, now);
        assert_eq!(alone.choose(None, &[0], 0.5, now), Choice { route: 0, probe: None });
    }

    #[test]
    fn by_weight_a_session_stays_and_moves_only_when_its_server_fails() {
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
            assert!(after == before || *before == 0, "one that had nothing to do with it moved");
        }
        assert_eq!(share(&after, 0), 0);
        // Without a session by the number drawn.
        let by_random: Vec<usize> =
            (0..300).map(|n| routes.choose(None, &[], f64::from(n) / 300.0, now).route).collect();
        assert_eq!((share(&by_random, 1), share(&by_random, 2)), (200, 100));
        assert_eq!(routes.choose(None, &[], 1.0, now).route, 2);
    }
}
