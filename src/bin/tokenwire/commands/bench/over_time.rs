//! The times between tokens over a run, in constant memory. This module has no side effects.

use std::time::Duration;

use tokenwire::Histogram;

/// The precision of all histograms of a load: 7 bits, or 0.8 %.
pub(crate) const PRECISION_BITS: u32 = 7;
/// The maximum number of parts into which a run is divided.
const SLOTS: usize = 96;
/// The initial width of a part. It doubles when the run needs more parts than the maximum.
const MIN_SLOT_WIDTH: Duration = Duration::from_millis(10);

/// A distribution for each part of a run of any length.
#[derive(Clone)]
pub(crate) struct OverTime {
    slots: Vec<Histogram>,
    width: Duration,
}

impl Default for OverTime {
    fn default() -> Self {
        Self { slots: Vec::new(), width: MIN_SLOT_WIDTH }
    }
}

impl OverTime {
    /// Adds a time between tokens. `at` is counted from the start of the run.
    pub(crate) fn add(&mut self, at: Duration, time: Duration) {
        let slot = loop {
            let slot = (at.as_nanos() / self.width.as_nanos()) as usize;
            if slot < SLOTS {
                break slot;
            }
            self.halve();
        };
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || Histogram::new(PRECISION_BITS));
        }
        self.slots[slot].add(time, 1);
    }

    /// Merges each two parts into one.
    fn halve(&mut self) {
        let merged = self.slots.chunks(2).map(|pair| {
            let mut slot = pair[0].clone();
            pair[1..].iter().for_each(|other| slot.merge(other));
            slot
        });
        self.slots = merged.collect();
        self.width *= 2;
    }

    /// Returns the parts that are not empty, each with the time of its middle.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (Duration, &Histogram)> {
        let middle = move |n: usize| self.width.mul_f64(n as f64 + 0.5);
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.total() > 0)
            .map(move |(n, slot)| (middle(n), slot))
    }

    /// Returns the end of the last part.
    pub(crate) fn end(&self) -> Duration {
        self.width.mul_f64(self.slots.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_kept_in_a_long_run() {
        let mut over_time = OverTime::default();
        for second in 0..3600 {
            over_time.add(Duration::from_secs(second), Duration::from_millis(1 + second));
        }
        assert!(over_time.slots.len() <= SLOTS);
        let all: u64 = over_time.slots().map(|(_, slot)| slot.total()).sum();
        assert_eq!(all, 3600);
        let (at, last) = over_time.slots().last().unwrap();
        assert!(at < over_time.end() && over_time.end() >= Duration::from_secs(3599));
        assert_eq!(last.max(), Duration::from_millis(3600));
        // The parts stay in the order of time.
        let medians: Vec<_> = over_time.slots().map(|(_, slot)| slot.percentile(50.0).unwrap()).collect();
        assert!(medians.is_sorted());
    }
}
