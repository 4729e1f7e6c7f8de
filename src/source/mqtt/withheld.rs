//! Messages whose acknowledgement is withheld until their readings are safe; given back in the order of arrival
//! (MQTT 3.1.1, 4.6: acknowledgements go out in the order the publications came in).

use std::collections::VecDeque;

use tokio::sync::{oneshot, watch};

use crate::queue::Dropped;
use crate::reading::{Position, Receipt};

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<M> {
    /// The oldest message is safe, or will never be a record.
    Acknowledge(M),
    /// The oldest message was not kept: it must not be acknowledged.
    Refused,
}

#[derive(Debug)]
enum State {
    /// The hub has not said yet.
    Asked(oneshot::Receiver<Receipt>),
    /// In the queue here.
    At(Position),
    /// To be acknowledged in its turn.
    Settled,
}

/// See the module. The caller bounds its length.
#[derive(Debug)]
pub(super) struct Withheld<M> {
    entries: VecDeque<(M, State)>,
    safe_through: watch::Receiver<Option<Position>>,
    dropped: watch::Receiver<Dropped>,
}

impl<M> Withheld<M> {
    /// `safe_through`: up to where the stream's records are durable or acknowledged by Kafka.
    /// `dropped`: which of them were lost from memory instead.
    pub fn new(safe_through: watch::Receiver<Option<Position>>, dropped: watch::Receiver<Dropped>) -> Self {
        Self { entries: VecDeque::new(), safe_through, dropped }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// A message whose reading went to the hub.
    pub fn handed(&mut self, message: M, receipt: oneshot::Receiver<Receipt>) {
        self.entries.push_back((message, State::Asked(receipt)));
    }

    /// A message of which there will be no record.
    pub fn settled(&mut self, message: M) {
        self.entries.push_back((message, State::Settled));
    }

    /// Waits until something can be done about the oldest message; for ever when there is none. Can be dropped at any
    /// await without loss.
    pub async fn next(&mut self) -> Outcome<M> {
        loop {
            let Some((_, state)) = self.entries.front_mut() else {
                return std::future::pending().await;
            };
            match state {
                State::Asked(receipt) => match receipt.await {
                    Ok(Receipt::Queued { position, .. }) => *state = State::At(position),
                    Ok(Receipt::SetAside) => *state = State::Settled,
                    Ok(Receipt::Refused) | Err(_) => return Outcome::Refused,
                },
                State::At(position) => {
                    let wanted = *position;
                    if self.safe_through.wait_for(|safe| safe.is_some_and(|safe| safe >= wanted)).await.is_err() {
                        return Outcome::Refused;
                    }
                    // The queue notes a drop before it reports the position as passed.
                    if self.dropped.borrow().contains(wanted) {
                        return Outcome::Refused;
                    }
                    *state = State::Settled;
                }
                State::Settled => {
                    if let Some((message, _)) = self.entries.pop_front() {
                        return Outcome::Acknowledge(message);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now<M>(withheld: &mut Withheld<M>) -> Poll<Outcome<M>> {
        pin!(withheld.next()).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn none_dropped() -> watch::Receiver<Dropped> {
        watch::channel(Dropped::default()).1
    }

    fn queued(seq: u64) -> Receipt {
        Receipt::Queued { stream: "telemetry".into(), position: Position::new(1, seq) }
    }

    #[test]
    fn nothing_is_acknowledged_before_it_is_safe_and_all_in_order() {
        let (safe, seen) = watch::channel(None);
        let mut withheld = Withheld::new(seen, none_dropped());
        let (first, told_first) = oneshot::channel();
        let (second, told_second) = oneshot::channel();
        withheld.handed('a', told_first);
        withheld.handed('b', told_second);
        withheld.settled('c');
        second.send(queued(1)).unwrap();
        assert_eq!(now(&mut withheld), Poll::Pending);
        first.send(queued(0)).unwrap();
        assert_eq!(now(&mut withheld), Poll::Pending);
        safe.send(Some(Position::new(1, 0))).unwrap();
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Acknowledge('a')));
        assert_eq!(now(&mut withheld), Poll::Pending);
        safe.send(Some(Position::new(1, 5))).unwrap();
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Acknowledge('b')));
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Acknowledge('c')));
        assert_eq!(now(&mut withheld), Poll::Pending);
        assert_eq!(withheld.len(), 0);
    }

    #[test]
    fn what_was_set_aside_is_acknowledged_and_what_was_refused_is_not() {
        let (_safe, seen) = watch::channel(None);
        let mut withheld = Withheld::new(seen, none_dropped());
        let (aside, told) = oneshot::channel();
        withheld.handed('a', told);
        aside.send(Receipt::SetAside).unwrap();
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Acknowledge('a')));
        let (refused, told) = oneshot::channel();
        withheld.handed('b', told);
        refused.send(Receipt::Refused).unwrap();
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Refused));
        assert_eq!(now(&mut Withheld::<char>::new(watch::channel(None).1, none_dropped())), Poll::Pending);
    }

    #[test]
    fn what_was_dropped_before_it_was_durable_is_not_acknowledged() {
        let (safe, seen) = watch::channel(None);
        let (dropped, seen_dropped) = watch::channel(Dropped::default());
        let mut withheld = Withheld::new(seen, seen_dropped);
        for (name, seq) in [('a', 0), ('b', 1)] {
            let (receipt, told) = oneshot::channel();
            withheld.handed(name, told);
            receipt.send(queued(seq)).unwrap();
        }
        dropped.send_modify(|ranges| ranges.add(Position::new(1, 1)));
        safe.send(Some(Position::new(1, 5))).unwrap();
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Acknowledge('a')));
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Refused));
    }

    #[test]
    fn a_hub_that_ends_leaves_the_message_unacknowledged() {
        let (_safe, seen) = watch::channel(Some(Position::END));
        let mut withheld = Withheld::new(seen, none_dropped());
        withheld.handed('a', oneshot::channel().1);
        assert_eq!(now(&mut withheld), Poll::Ready(Outcome::Refused));
    }
}
