//! Compares the parser's events with the events from `sse-core`, a crate that shares no code with
//! tokenwire.
//!
//! Both follow the standard. Name, data, id and order of the events must therefore be equal. Three
//! intended differences are not compared:
//!
//! - a reconnection time over 32 bits, which tokenwire keeps and `sse-core` ignores
//! - the effect of limits: tokenwire ends the stream, `sse-core` drops one event
//! - an event without a blank line after it, which tokenwire reports at the end

use sse_core::{SseDecoder, SseEvent};

use crate::properties::{FRAGMENTS, run};

/// Reads the input in the same way as the target `sse`.
pub(crate) fn sse_peer(input: &[u8]) {
    let Some(([mode, _, cuts], rest)) = input.split_first_chunk::<3>() else { return };
    let body = if mode & 1 == 0 {
        rest.to_vec()
    } else {
        rest.iter().flat_map(|byte| FRAGMENTS[usize::from(*byte) % FRAGMENTS.len()]).copied().collect()
    };
    let ours = run(&body, || usize::from(*cuts) + 1, 32 << 20);
    let ours: Vec<_> = ours.events.into_iter().map(|(event, data, id, _)| (event, data, id)).collect();

    let mut decoder = SseDecoder::with_limit((32 << 20).try_into().unwrap());
    let mut theirs = Vec::new();
    for mut read in body.chunks(usize::from(*cuts) + 1) {
        while let Some(event) = decoder.next(&mut read) {
            if let SseEvent::Message(event) = event.unwrap() {
                let id = event.last_event_id.as_deref().unwrap_or_default().to_owned();
                theirs.push((event.event.into_owned(), event.data, id));
            }
        }
    }
    assert_eq!(ours, theirs, "{}", body.escape_ascii());
}
