//! Many tokens at a time from a channel.

use crossbeam_channel::Receiver;

/// Waits for a token, then takes what is in the channel with it, up to `max` of them (none if that is zero). They are put behind
/// what is in `tokens`. False if the channel was disconnected and had nothing left.
///
/// For a consumer that does something for each batch, such as a lock, a write or a redraw: it is woken once for all that came
/// meanwhile. It is of use with [`fan_in`](crate::fan_in()), where what many streams have sent comes together. Costs no allocation if
/// `tokens` has room.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// (0..5).try_for_each(|n| sender.send(n))?;
/// drop(sender);
/// let mut batch = Vec::new();
/// let mut sizes = Vec::new();
/// while tokenwire::recv_many(&receiver, &mut batch, 3) {
///     sizes.push(batch.len());
///     batch.clear();
/// }
/// assert_eq!(sizes, [3, 2]);
/// # Ok::<(), crossbeam_channel::SendError<i32>>(())
/// ```
pub fn recv_many<T>(receiver: &Receiver<T>, tokens: &mut Vec<T>, max: usize) -> bool {
    let Some(more) = max.checked_sub(1) else { return true };
    let Ok(first) = receiver.recv() else { return false };
    tokens.push(first);
    tokens.extend(receiver.try_iter().take(more));
    true
}
