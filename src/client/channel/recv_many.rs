//! Receives many tokens at a time from a channel.

use crossbeam_channel::Receiver;

/// Waits for a token, and appends it and all further tokens in the channel to `tokens`.
///
/// The function appends at most `max` tokens. If `max` is zero, it appends nothing and returns true
/// at once. It returns false if the channel is disconnected and empty.
///
/// Use this function if your consumer does some work once per batch: it takes a lock, writes or
/// redraws. The consumer then wakes once for all tokens that arrived in the meantime. This helps
/// most with [`fan_in`](crate::fan_in()), where many streams send to one channel. The function does
/// not allocate if `tokens` has enough capacity.
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
