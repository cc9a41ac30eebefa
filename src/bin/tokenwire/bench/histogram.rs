//! Times in constant space: how many of each length, and the same along the time of the run. Pure.

use std::time::Duration;

/// Buckets for each doubling: each is 0.54 % wide.
const PER_DOUBLING: f64 = 128.0;
/// From 1 ns to the longest time there is.
const BUCKETS: usize = 64 * PER_DOUBLING as usize;
/// Parts that the time of a run is cut into.
const SLOTS: usize = 96;
/// The first width of such a part; it doubles whenever the run has become too long for it.
const MIN_SLOT_WIDTH: Duration = Duration::from_millis(10);

/// A distribution of times. A figure taken from it is at most 0.55 % above the true one; `max` is exact.
#[derive(Clone)]
pub(crate) struct Histogram {
    /// 32 KiB.
    counts: Vec<u32>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        // Below BUCKETS for every u64, and so the last one at most.
        let count = &mut self.counts[bucket(time).min(BUCKETS - 1)];
        *count = count.saturating_add(1);
        self.total += 1;
        self.max = self.max.max(time);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*more);
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// So many percent of all times are no longer than this; `None` of no times.
    pub(crate) fn percentile(&self, percent: f64) -> Option<Duration> {
        let wanted = (self.total as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        let (bucket, _) = self.counts.iter().enumerate().find(|(_, count)| {
            seen += u64::from(**count);
            seen >= wanted
        })?;
        Some(edge(bucket + 1).min(self.max))
    }

    /// Where there are times, so many buckets taken together: from, to, and how many.
    pub(crate) fn bars(&self, buckets: usize) -> impl Iterator<Item = (Duration, Duration, u64)> {
        let counts = self.counts.chunks(buckets).map(|counts| counts.iter().copied().map(u64::from).sum());
        let bars = counts.enumerate().filter(|(_, count)| *count > 0);
        bars.map(move |(n, count)| (edge(n * buckets), edge((n + 1) * buckets), count))
    }
}

fn bucket(time: Duration) -> usize {
    ((time.as_nanos().max(1) as f64).log2() * PER_DOUBLING) as usize
}

/// Where a bucket begins.
fn edge(bucket: usize) -> Duration {
    Duration::from_nanos((bucket as f64 / PER_DOUBLING).exp2() as u64)
}

/// A distribution for each part of a run, however long that takes.
#[derive(Clone)]
pub(crate) struct Timeline {
    slots: Vec<Histogram>,
    width: Duration,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { slots: Vec::new(), width: MIN_SLOT_WIDTH }
    }
}

impl Timeline {
    /// `at` is counted from the beginning of the run.
    pub(crate) fn add(&mut self, at: Duration, time: Duration) {
        let slot = loop {
            let slot = (at.as_nanos() / self.width.as_nanos()) as usize;
            if slot < SLOTS {
                break slot;
            }
            self.halve();
        };
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, Histogram::default);
        }
        self.slots[slot].add(time);
    }

    /// Makes one part of every two.
    fn halve(&mut self) {
        let merged = self.slots.chunks(2).map(|pair| {
            let mut slot = pair[0].clone();
            pair[1..].iter().for_each(|other| slot.merge(other));
            slot
        });
        self.slots = merged.collect();
        self.width *= 2;
    }

    /// The parts that are not empty, with their middle.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (Duration, &Histogram)> {
        let middle = move |n: usize| self.width.mul_f64(n as f64 + 0.5);
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.total > 0)
            .map(move |(n, slot)| (middle(n), slot))
    }

    /// The end of the last part.
    pub(crate) fn end(&self) -> Duration {
        self.width.mul_f64(self.slots.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_a_narrow_bucket() {
        for nanos in (0..63).flat_map(|bit| [1_u64 << bit, (1 << bit) + (1 << bit >> 1), (2 << bit) - 1]) {
            let time = Duration::from_nanos(nanos);
            let mut histogram = Histogram::default();
            histogram.add(time);
            let (from, to, count) = histogram.bars(1).next().unwrap();
            // Edges are whole nanoseconds, and below a hundred of them that shows.
            let slack = Duration::from_nanos(1 + nanos / 1_000_000);
            assert!(from <= time + slack && time <= to + slack, "{time:?} in {from:?}..{to:?}");
            assert!((to - from).as_secs_f64() <= 0.0055 * time.as_secs_f64() + 2e-9, "{from:?}..{to:?}");
            assert_eq!((count, histogram.percentile(50.0)), (1, Some(time.min(to))));
        }
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), None);
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (percent, ms) in [(0.0, 1.0), (50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (100.0, 1000.0)] {
            let ratio = histogram.percentile(percent).unwrap().as_secs_f64() * 1e3 / ms;
            assert!((0.999..=1.0055).contains(&ratio), "{percent} %: {ratio} times {ms} ms");
        }
        assert_eq!(histogram.max(), Duration::from_secs(1));
    }

    #[test]
    fn a_timeline_keeps_every_time_however_long_it_gets() {
        let mut timeline = Timeline::default();
        for second in 0..3600 {
            timeline.add(Duration::from_secs(second), Duration::from_millis(1 + second));
        }
        assert!(timeline.slots.len() <= SLOTS);
        let all: u64 = timeline.slots().map(|(_, slot)| slot.total()).sum();
        assert_eq!(all, 3600);
        let (at, last) = timeline.slots().last().unwrap();
        assert!(at < timeline.end() && timeline.end() >= Duration::from_secs(3599));
        assert_eq!(last.max(), Duration::from_millis(3600));
        // In order: what came early stands early.
        let medians: Vec<_> = timeline.slots().map(|(_, slot)| slot.percentile(50.0).unwrap()).collect();
        assert!(medians.is_sorted());
    }
}
