//! The channels that carry tokens to the consumer.

pub(crate) mod fan_in;
pub(crate) mod recv_many;
pub(crate) mod sender;
