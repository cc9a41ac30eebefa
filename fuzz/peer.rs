//! Events as another crate sees them: `sse-core`, which shares no code with this one.
//!
//! Both follow the standard, so that name, data and id of each event are the same, and their order. Where they differ on
//! purpose, nothing is compared: a reconnection time over 32 bits (here it is kept, there it is ignored), what limits do
//! (here the stream is over, there one event is left out), and what has no blank line behind it (here it is told at
//! the end).

use sse_core::{SseDecoder, SseEvent};

use crate::properties::{FRAGMENTS, run};

/// The input as the target `sse` takes it.
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
