use super::*;
use crate::protocol::request::sampling::SamplingParams;

/// The ids and the text of an event.
type Event<'a> = (&'a [TokenId], &'a str);

fn request(sampling: SamplingParams) -> CompletionRequest {
    CompletionRequest::ids([1, 2]).sampling(sampling)
}

fn greedy() -> SamplingParams {
    SamplingParams::default().temperature(0.0).max_tokens(100)
}

fn received(request: CompletionRequest, endpoint: Endpoint) -> ResumeState {
    ResumeState::new(Ok(request), endpoint, ResumePolicy::default())
}

/// Returns the tokens of an event as the decoder does: the text belongs to the first id.
fn tokens((ids, text): Event<'_>) -> Vec<StreamToken> {
    let token = |(i, id): (usize, &TokenId)| StreamToken::Token {
        text: if i == 0 { text.to_owned() } else { String::new() },
        id: Some(*id),
    };
    ids.iter().enumerate().map(token).collect()
}

/// Returns the items that are delivered for these events, and the result.
fn feed(received: &mut ResumeState, events: &[Event<'_>]) -> (Vec<(TokenId, String)>, &'static str) {
    let mut out = Vec::new();
    for event in events {
        let mut tokens = tokens(*event);
        let result = received.event(&mut tokens);
        if result.is_ok() {
            out.extend(tokens.into_iter().map(|token| match token {
                StreamToken::Token { text, id } => (id.unwrap_or(0), text),
                other => panic!("{other:?}"),
            }));
        }
        match result {
            Ok(false) => {}
            Ok(true) => return (out, "stopped"),
            Err(_) => return (out, "diverged"),
        }
    }
    (out, "")
}

#[test]
fn ids_without_text_are_requested_again_and_delivered_once() {
    const NEXT: &[Event<'static>] = &[(&[8], ""), (&[9], "é"), (&[10], "x")];
    const MERGED: &[Event<'static>] = &[(&[7, 8, 9], "é"), (&[10], "x")];
    const EARLY: &[Event<'static>] = &[(&[7], "é"), (&[8], ""), (&[9], ""), (&[10], "x")];
    let again: Vec<Event<'_>> = [(&[7][..], "")].into_iter().chain(NEXT.iter().copied()).collect();
    // Each row contains the events before the break, whether the request is greedy, the endpoint,
    // and the events after the break. The last two fields are the expected `ResumeStart` and the
    // items delivered after the break.
    type Row<'a> =
        (&'a [Event<'a>], bool, Endpoint, &'a [Event<'a>], (usize, bool), &'a [(TokenId, &'a str)]);
    let x = (10, "x");
    let rows: &[Row<'_>] = &[
        (&[(&[6], "a")], true, Endpoint::Auto, &[(&[10], "x")], (0, true), &[x]),
        (&[(&[6], "a"), (&[7], "")], true, Endpoint::Auto, &again, (1, true), &[(8, ""), (9, "é"), x]),
        (&[(&[6], "a"), (&[7], ""), (&[8], "")], true, Endpoint::Auto, &again, (2, true), &[(9, "é"), x]),
        (&[(&[6], "a"), (&[7], ""), (&[8], "")], true, Endpoint::Auto, MERGED, (2, true), &[(9, "é"), x]),
        // The server sends the text earlier than before. It is still delivered with the first new
        // id.
        (&[(&[6], "a"), (&[7], ""), (&[8], "")], true, Endpoint::Auto, EARLY, (2, true), &[(9, "é"), x]),
        // The text of an event with several ids is assumed to be complete.
        (&[(&[6, 7], "a")], true, Endpoint::Auto, NEXT, (0, true), &[(8, ""), (9, "é"), x]),
        // The only id of the answer so far has no text.
        (&[(&[7], "")], true, Endpoint::Auto, &again, (1, true), &[(8, ""), (9, "é"), x]),
        // Not greedy: other ids may arrive, and their first text is not reliable.
        (&[(&[6], "a"), (&[7], "")], false, Endpoint::Auto, NEXT, (0, false), &[(8, ""), (9, "\u{fffd}"), x]),
        // The events contain only ids.
        (&[(&[6], ""), (&[7], "")], true, Endpoint::VllmGenerate, &[(&[8], "")], (0, true), &[(8, "")]),
    ];
    for (before, is_greedy, endpoint, after, start, handed) in rows {
        let sampling = if *is_greedy { greedy() } else { greedy().temperature(0.7) };
        let mut received = received(request(sampling), *endpoint);
        let first = feed(&mut received, before);
        assert_eq!(first.0.len(), received.ids());
        let found = received.start_resume(None);
        assert_eq!((found.ids_again, found.text_exact), *start, "{before:?}");
        let next = received.next_request().unwrap();
        let prompt = [1, 2].into_iter().chain(first.0.iter().map(|token| token.0));
        let prompt: Vec<_> = prompt.take(2 + received.ids() - start.0).collect();
        assert!(next.prompt == crate::protocol::request::completion::Prompt::Ids(prompt), "{before:?}");
        assert_eq!(next.sampling.max_tokens, Some(100 - (received.ids() - start.0) as u32));
        let (out, end) = feed(&mut received, after);
        let out: Vec<_> = out.iter().map(|(id, text)| (*id, text.as_str())).collect();
        assert_eq!((&out[..], end), (*handed, ""), "{before:?} {after:?}");
        assert!(received.rest().unwrap().is_none());
    }
}

#[test]
fn ids_that_do_not_repeat_end_the_attempt_and_are_not_requested_again() {
    let mut received = received(request(greedy()), Endpoint::Auto);
    feed(&mut received, &[(&[6], "a"), (&[7], ""), (&[8], "")]);
    assert_eq!(received.start_resume(None).ids_again, 2);
    assert_eq!(feed(&mut received, &[(&[7], ""), (&[5], "b")]), (vec![], "diverged"));
    assert_eq!(received.ids(), 3);
    assert_eq!(received.check(IdsExact::Unknown, None), Ok(()));
    // With llama.cpp, the last id may be the end of the answer. Only a server that repeats the last
    // id would show this.
    let refused = received.check(IdsExact::Unknown, Some(Family::LlamaCpp));
    assert_eq!(refused, Err(Some(NotResumable::MayHaveEnded)));
    assert_eq!(received.start_resume(None), ResumeStart { ids_again: 0, text_exact: false });
    let (out, _) = feed(&mut received, &[(&[9], "all of the prompt é"), (&[10], "x")]);
    assert_eq!(out, [(9, "\u{fffd}".to_owned()), (10, "x".to_owned())]);
    // This second break also follows an id with text.
    assert_eq!(received.start_resume(None), ResumeStart { ids_again: 0, text_exact: true });
}

#[test]
fn a_prompt_before_the_first_text_is_removed() {
    let sentence =
        "The quick brown fox jumps over the lazy dog and is gone for good, as far as anybody knows";
    let whole = format!("<|user|>Who?<|assistant|>{sentence}é x");
    // Each row contains the text delivered before the break, the first text after the break, and
    // the part of that first text that is delivered.
    let rows = [
        (sentence, whole.as_str(), "é x"),
        // A new text may contain an old one.
        (sentence, sentence, sentence),
        (
            sentence,
            " and is gone for good, as far as anybody knows",
            " and is gone for good, as far as anybody knows",
        ),
        // The text is too short to decide.
        ("The", whole.as_str(), whole.as_str()),
    ];
    for (before, first, expected) in rows {
        // One event has two ids. The second one may be half a character.
        let mut received = received(request(greedy()), Endpoint::Auto);
        feed(&mut received, &[(&[5], &before[..2]), (&[6, 7], &before[2..])]);
        received.start_resume(Some(Family::Vllm));
        let (out, _) = feed(&mut received, &[(&[8], first), (&[9], first)]);
        let texts: Vec<_> = out.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, [expected, first]);
    }
    let mut received = received(request(greedy().temperature(1.0)), Endpoint::Auto);
    feed(&mut received, &[(&[6], sentence), (&[7], "")]);
    received.start_resume(Some(Family::Vllm));
    assert_eq!(feed(&mut received, &[(&[8], &whole)]).0, [(8, "é x".to_owned())]);
}

#[test]
fn too_many_ids_without_text_are_not_requested_again() {
    for (count, again) in [(16, 16), (17, 0)] {
        let mut received = received(request(greedy()), Endpoint::Auto);
        feed(&mut received, &[(&[6], "a")]);
        (0..count).for_each(|id| drop(feed(&mut received, &[(&[id], "")])));
        assert_eq!(
            received.start_resume(None),
            ResumeStart { ids_again: again, text_exact: again > 0 },
            "{count}"
        );
    }
}

#[test]
fn text_of_repeated_ids_is_not_lost_at_the_end() {
    let mut received = received(request(greedy()), Endpoint::LlamaCpp);
    feed(&mut received, &[(&[6], "a"), (&[7], "")]);
    received.start_resume(None);
    assert_eq!(feed(&mut received, &[(&[7], "held")]), (vec![], ""));
    let rest = received.rest().unwrap();
    assert!(matches!(rest, Some(StreamToken::Token { text, id: None }) if text == "held"));
    assert!(received.rest().unwrap().is_none());
}

#[test]
fn the_received_ids_may_be_the_whole_answer() {
    let sampling = || greedy().max_tokens(3).stop_token_ids(vec![9]);
    // Each row contains the ids, the kind of server, and the expected finish reason.
    let rows: &[(&[TokenId], _, _)] = &[
        (&[6, 7], None, None),
        (&[6, 7, 8], None, Some(FinishReason::Length)),
        (&[6, 9], None, Some(FinishReason::Stop)),
        (&[9, 6], None, None),
        // llama.cpp continues after a stop token id.
        (&[6, 9], Some(Family::LlamaCpp), None),
    ];
    for (ids, server, expected) in rows {
        let mut received = received(request(sampling()), Endpoint::Auto);
        feed(&mut received, &[(ids, "text")]);
        assert_eq!(received.complete(*server), *expected, "{ids:?} {server:?}");
    }
}

#[test]
fn counts_of_the_last_request_become_counts_of_the_whole_answer() {
    let mut received = received(request(greedy()), Endpoint::Auto);
    feed(&mut received, &[(&[6], "a"), (&[7], "b"), (&[8], "")]);
    let usage = |prompt_tokens, completion_tokens, cached_tokens| Usage {
        prompt_tokens,
        completion_tokens,
        cached_tokens,
        reasoning_tokens: None,
    };
    assert_eq!(received.whole_usage(usage(2, 3, Some(1)), None), usage(2, 3, Some(1)));
    // One id is requested again, so two ids are in the prompt.
    received.start_resume(None);
    assert_eq!(received.whole_usage(usage(4, 5, Some(4)), None), usage(2, 7, None));
    assert_eq!(received.whole_usage(usage(4, 5, Some(4)), Some(usage(2, 3, Some(1)))), usage(2, 7, Some(1)));
    let no = |received, counted| IdsExact::No(Inexact::CountDiffers { received, counted });
    assert_eq!(received.whole_exact(no(3, 4)), no(5, 6));
    assert_eq!(received.whole_exact(IdsExact::Yes), IdsExact::Yes);
    assert_eq!(received.whole_exact(IdsExact::No(Inexact::NoIds)), IdsExact::No(Inexact::TextWithoutId));
}

// ---- stop strings ----

/// Imitates a server that sends text as it is generated, and stops like SGLang.
///
/// If a part of a stop string was already sent, the part remains. The server starts with the piece
/// at the index `from`. Returns the pieces that it sends, and whether it stopped.
fn serve<'a>(pieces: &[&'a str], from: usize, stop: &str) -> (Vec<&'a str>, bool) {
    let (mut text, mut sent) = (String::new(), Vec::new());
    for piece in &pieces[from..] {
        let before = text.len();
        text += piece;
        if let Some(start) = text.find(stop) {
            sent.push(&piece[..start.saturating_sub(before)]);
            return (sent, true);
        }
        sent.push(piece);
    }
    (sent, false)
}

#[test]
fn a_stop_string_is_found_wherever_the_break_is() {
    // No stop string begins with its own end, so two occurrences of the same stop string never
    // overlap.
    let stops = ["abb", "ab", "aabb", "abc"];
    let mut crossed = 0;
    for seed in 0..3000_u32 {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        let text: String = (0..24).map(|_| ['a', 'b', 'b', 'c', 'é'][draw(5) as usize]).collect();
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let chars = 1 + draw(3) as usize;
            let end = rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at);
            pieces.push(&rest[..end]);
            rest = &rest[end..];
        }
        let stop = stops[draw(4) as usize];
        let expected = serve(&pieces, 0, stop);
        for splice in 1..expected.0.len() {
            let sampling = greedy().stop(vec!["zz".to_owned(), stop.to_owned()]);
            let mut received = received(request(sampling), Endpoint::SgLang);
            let mut all = String::new();
            for (id, piece) in pieces[..splice].iter().enumerate() {
                all += &feed(&mut received, &[(&[id as u32], piece)]).0[0].1;
            }
            assert_eq!(received.check(IdsExact::Unknown, None), Ok(()));
            assert!(received.start_resume(None).text_exact);
            let (sent, mut stopped) = serve(&pieces, splice, stop);
            for (id, piece) in sent.iter().enumerate() {
                let (out, end) = feed(&mut received, &[(&[(splice + id) as u32], piece)]);
                all += &out[0].1;
                if end == "stopped" {
                    crossed += 1;
                    stopped = true;
                    break;
                }
            }
            let found = (all, stopped, received.ids());
            assert_eq!(
                found,
                (expected.0.concat(), expected.1, expected.0.len()),
                "{pieces:?} {stop} {splice}"
            );
        }
    }
    assert!(crossed > 500, "{crossed}");
}

#[test]
fn a_stop_string_across_the_splice_counts_only_if_the_server_would_stop_at_it() {
    let stop = || greedy().stop(vec!["abcd".to_owned()]);
    let keeps = |sampling| request(sampling).extra("include_stop_str_in_output", true);
    // Each row contains the request, the part of `c` and `dx` that is delivered after `ab`, and the
    // result.
    let rows = [
        (request(stop()), ["c", ""], "stopped"),
        (keeps(stop()), ["c", "d"], "stopped"),
        (request(stop().min_tokens(9)), ["c", "dx"], ""),
        (request(greedy()), ["c", "dx"], ""),
        (request(greedy().stop(vec!["bx".to_owned()])), ["c", "dx"], ""),
    ];
    for (request, texts, end) in rows {
        let mut received = received(request, Endpoint::SgLang);
        feed(&mut received, &[(&[6], "xab")]);
        received.start_resume(None);
        let found = feed(&mut received, &[(&[7], "c"), (&[8], "dx")]);
        let expected = vec![(7, texts[0].to_owned()), (8, texts[1].to_owned())];
        assert_eq!(found, (expected, end));
    }
    // A stop string that begins before the minimum number of tokens is ordinary text.
    let mut received = received(request(stop().min_tokens(2)), Endpoint::SgLang);
    feed(&mut received, &[(&[6], "xab")]);
    received.start_resume(None);
    assert_eq!(feed(&mut received, &[(&[7], "x"), (&[8], "cd")]).1, "");
}

#[test]
fn stop_strings_prevent_a_resume_if_the_server_holds_text_back_unless_you_accept_it() {
    let request = || request(greedy().stop(vec!["###".to_owned()]));
    let held = Err(Some(NotResumable::StopStrings));
    let rows = [
        (request(), Endpoint::Auto, None, held),
        (request(), Endpoint::OpenAi, Some(Family::Vllm), held),
        (request(), Endpoint::VllmGenerate, None, held),
        (request(), Endpoint::OpenAi, Some(Family::LlamaCpp), Ok(())),
        (request(), Endpoint::LlamaCpp, None, Ok(())),
        (request(), Endpoint::SgLang, None, Ok(())),
        (request().extra("include_stop_str_in_output", true), Endpoint::OpenAi, Some(Family::Vllm), Ok(())),
        (request().allow_inexact_resume(), Endpoint::OpenAi, Some(Family::Vllm), Ok(())),
    ];
    // If the server may hold text back, `text_exact` is false.
    for (endpoint, text_exact) in
        [(Endpoint::OpenAi, false), (Endpoint::SgLang, true), (Endpoint::LlamaCpp, true)]
    {
        let mut received = received(request().allow_inexact_resume(), endpoint);
        feed(&mut received, &[(&[6], "a")]);
        assert_eq!(received.start_resume(None).text_exact, text_exact, "{endpoint}");
    }
    for (request, endpoint, server, expected) in rows {
        let mut received = received(request, endpoint);
        feed(&mut received, &[(&[6], "a")]);
        assert_eq!(received.check(IdsExact::Unknown, server), expected, "{endpoint} {server:?}");
    }
}
