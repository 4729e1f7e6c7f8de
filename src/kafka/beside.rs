//! A call that may never come back, made in a thread of its own.
//!
//! It is there for `rd_kafka_send_offsets_to_transaction`, which waits without a limit for what it began, while that
//! looks at the time only when an answer comes (`rdkafka_txnmgr.c`; confluentinc/librdkafka#5456, open as of 2.14). Where
//! the group's coordinator has vanished from the cluster's metadata, none comes before some other connection stands or
//! ends (#5511 there). The thread that polls cannot wait for that: it would neither notice a stop nor make another client.
//!
//! What the call needs belongs to its thread, so a client that is given up in the meantime ends when the call does. It
//! can do no harm till then: its successor has taken the transactional id over.

use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// What is known of the call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// It has ended.
    Here(T),
    /// It goes on.
    NotYet,
    /// It cannot be made, or broke down.
    Never(String),
}

/// At most one call at a time.
pub(super) struct Call<T> {
    under_way: Mutex<Option<mpsc::Receiver<T>>>,
}

impl<T> Default for Call<T> {
    fn default() -> Self {
        Self { under_way: Mutex::new(None) }
    }
}

impl<T: Send + 'static> Call<T> {
    /// Whether one was made whose answer was not yet taken.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits at most `wait` for the call under way; makes this one where there is none.
    pub(super) fn go_on(&self, wait: Duration, call: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match under_way.take().map_or_else(|| begin(call), Ok) {
            Ok(answer) => answer,
            Err(error) => return Answer::Never(format!("thread for a call of the client: {error}")),
        };
        match answer.recv_timeout(wait) {
            Ok(answer) => Answer::Here(answer),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                *under_way = Some(answer);
                Answer::NotYet
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Answer::Never("call of the client broke down".into()),
        }
    }
}

fn begin<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> std::io::Result<mpsc::Receiver<T>> {
    let (sender, answer) = mpsc::sync_channel(1);
    // The call has let go of what it needs when its answer is there. Where nobody waits any more it is not missed.
    thread::Builder::new().name("kafka-call".into()).spawn(move || drop(sender.send(call())))?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::{MockCluster, MockCoordinator};

    use super::super::client::Producer;
    use super::super::client::tests::kafka;
    use super::super::transaction::{Committed, Group, Remedy, Trouble};
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_call_is_made_once_and_waited_for_in_slices() {
        let call = Call::default();
        let (end, ended) = mpsc::sync_channel(1);
        assert!(!call.is_under_way());
        assert_eq!(call.go_on(Duration::ZERO, move || ended.recv().unwrap()), Answer::NotYet);
        assert!(call.is_under_way());
        assert_eq!(call.go_on(Duration::from_millis(1), || panic!("made twice")), Answer::NotYet);
        end.send(7).unwrap();
        assert_eq!(call.go_on(LONG, || panic!("made twice")), Answer::Here(7));
        assert!(!call.is_under_way());
        assert_eq!(call.go_on(LONG, || 8), Answer::Here(8));
    }

    #[test]
    fn what_a_call_needs_is_let_go_of_before_its_answer_is_there() {
        let (call, client) = (Call::default(), Arc::new(()));
        for _ in 0..1_000 {
            let needed = Arc::clone(&client);
            assert_eq!(call.go_on(LONG, move || drop(needed)), Answer::Here(()));
            assert_eq!(Arc::strong_count(&client), 1);
        }
    }

    #[test]
    fn a_call_that_breaks_down_is_no_call_under_way() {
        let call = Call::default();
        let broken: Answer<()> = call.go_on(LONG, || panic!("the test wants it"));
        assert_eq!(broken, Answer::Never("call of the client broke down".into()));
        assert!(!call.is_under_way());
    }

    /// The same step until it ends, as the session has it.
    fn until_done(what: &str, mut step: impl FnMut() -> Result<(), Trouble>) {
        let begun = Instant::now();
        while let Err(trouble) = step() {
            assert_eq!(trouble.remedy, Remedy::Again, "{what}: {trouble}");
            assert!(begun.elapsed() < LONG, "{what}: {trouble}");
        }
    }

    /// The library's own call waits until the group's coordinator is back, whatever time it is given.
    #[test]
    fn a_cursor_whose_coordinator_is_away_does_not_keep_the_thread() {
        const SLICE: Duration = Duration::from_millis(50);
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("telemetry", 1, 1).unwrap();
        cluster.coordinator(MockCoordinator::Transaction("id".into()), 1).unwrap();
        cluster.coordinator(MockCoordinator::Group("id.telemetry".into()), 2).unwrap();
        cluster.partition_leader("telemetry", 0, Some(1)).unwrap();
        let properties = [("reconnect.backoff.ms", "50"), ("reconnect.backoff.max.ms", "100")];
        let kafka = kafka(&cluster.bootstrap_servers(), &properties);
        let client = Producer::transactional(&kafka, 1, "id", Duration::from_secs(60)).unwrap();
        until_done("init", || client.init_transactions(SLICE));
        client.begin_transaction().unwrap();
        let mut names = rdkafka::ClientConfig::new();
        names.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "id.telemetry");
        let consumer: BaseConsumer = names.create().unwrap();
        let group = Group::of(consumer.group_metadata().unwrap());
        let cursor = Committed { offset: 1, metadata: "x".into() };
        cluster.broker_down(2).unwrap();
        for _ in 0..20 {
            let begun = Instant::now();
            let trouble = client.send_cursor(&group, "telemetry", &cursor, SLICE).unwrap_err();
            assert_eq!(trouble.remedy, Remedy::Again, "{trouble}");
            assert!(begun.elapsed() < SLICE * 20, "it waited {:?}", begun.elapsed());
        }
        assert!(client.is_sending_cursor());
        cluster.broker_up(2).unwrap();
        until_done("cursor", || client.send_cursor(&group, "telemetry", &cursor, SLICE));
        until_done("commit", || client.commit_transaction(SLICE));
    }
}
