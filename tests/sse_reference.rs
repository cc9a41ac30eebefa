//! Compares `SseParser` with the slow reference parser. The bodies are random combinations of the
//! fuzzer's fragments. They are the same in every run.
#![cfg(feature = "testing")]

#[path = "../fuzz/properties.rs"]
mod properties;

/// A random number generator: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

#[test]
fn the_parser_equals_the_reference_on_generated_bodies_at_random_cuts() {
    let mut random = Random(0x5EED);
    let (mut events, mut over) = (0, 0);
    for _ in 0..6000 {
        let mut body = Vec::new();
        for _ in 0..random.below(40) {
            body.extend_from_slice(properties::FRAGMENTS[random.below(properties::FRAGMENTS.len())]);
        }
        let max_event_bytes = if random.below(3) == 0 { random.below(120) } else { 1 << 20 };
        let seed = random.below(1 << 16) as u16;
        properties::sse_is_right_at_any_cut(&body, seed, max_event_bytes);

        let outcome = properties::reference_sse::parse(&body, max_event_bytes);
        events += outcome.events.len();
        over += usize::from(outcome.over);
    }
    // Check that the bodies contain enough events.
    assert!(events > 3000, "only {events} events");
    assert!((300..3000).contains(&over), "{over} bodies over the limit");
}

#[test]
fn a_line_that_is_kept_for_its_error_is_cut_between_characters() {
    for before in 0..4 {
        for (field, end) in [("{", "\n\n"), ("error: ", "\n"), ("<", "")] {
            let text = "€".repeat(tokenwire::MAX_SSE_STRAY_BYTES / 3 + 2);
            let body = format!("{field}{}{text}{end}", "a".repeat(before));
            properties::sse_is_right_at_any_cut(body.as_bytes(), 96, 1 << 20);
        }
    }
}
