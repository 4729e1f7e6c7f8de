//! What a Kafka error means for the records it concerns: a pure table.
//!
//! Source of the codes: the Kafka protocol's error table and librdkafka's `rd_kafka_handle_Produce_error`
//! (`rdkafka_request.c`), which already retries what a retry can cure.

use rdkafka::error::RDKafkaErrorCode as Code;

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Not delivered, or not known to be: sent again.
    Retried,
    /// The broker will never take this record; the rest of its batch failed with it.
    Poison,
    /// Configuration or authorisation: nothing is dropped, the stream waits and tries again.
    Held,
    /// The client can no longer be used: it is destroyed and built anew.
    Fatal,
}

impl Class {
    /// A short word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Poison => "poison",
            Self::Held => "held",
            Self::Fatal => "fatal",
        }
    }
}

/// An error of Kafka or its client, free of the client's own types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What is to be done about it.
    pub class: Class,
    /// The client's words.
    pub text: String,
    /// Kafka's name for it, where it is about the record; else empty.
    pub name: &'static str,
    /// The broker refused the record's timestamp (`message.timestamp.after.max.ms`), which says that a clock is
    /// wrong and not that the record is.
    pub timestamp_refused: bool,
}

impl Failure {
    /// Not delivered for a reason that says nothing about the record.
    pub(crate) fn retried(text: String) -> Self {
        Self { class: Class::Retried, text, name: "", timestamp_refused: false }
    }

    /// Somebody must mend something.
    pub(crate) fn held(text: String) -> Self {
        Self { class: Class::Held, text, name: "", timestamp_refused: false }
    }

    /// No message can be made of the record.
    pub(crate) fn unwritable(text: String) -> Self {
        Self { class: Class::Poison, text, name: "", timestamp_refused: false }
    }

    pub(super) fn from_code(code: Code) -> Self {
        let timestamp_refused = code == Code::InvalidTimestamp;
        Self { class: class_of(code), text: code.to_string(), name: name_of(code), timestamp_refused }
    }

    pub(super) fn from_error(error: &rdkafka::error::KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(code) => Self::from_code(code),
            None => Self::held(error.to_string()),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

/// The protocol's name of an error that is about a record.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::MessageSizeTooLarge => "MESSAGE_TOO_LARGE",
        Code::MessageBatchTooLarge => "RECORD_LIST_TOO_LARGE",
        Code::InvalidMessageSize => "INVALID_FETCH_SIZE",
        Code::InvalidRecord => "INVALID_RECORD",
        Code::InvalidTimestamp => "INVALID_TIMESTAMP",
        Code::UnsupportedForMessageFormat => "UNSUPPORTED_FOR_MESSAGE_FORMAT",
        Code::PolicyViolation => "POLICY_VIOLATION",
        _ => "",
    }
}

/// The class of an error code. What is not known is retried: that never drops a record.
pub(super) fn class_of(code: Code) -> Class {
    match code {
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::UnsupportedForMessageFormat
        | Code::PolicyViolation => Class::Poison,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::SSL
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::InvalidRequiredAcks
        | Code::UnsupportedCompressionType
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::InvalidArgument
        | Code::InvalidConfig => Class::Held,
        Code::Fatal
        | Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::OutOfOrderSequenceNumber
        | Code::InvalidTransactionalState
        | Code::InvalidProducerIdMapping
        | Code::GaplessGuarantee => Class::Fatal,
        _ => Class::Retried,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_the_broker_will_never_take_is_poison() {
        for code in [Code::MessageSizeTooLarge, Code::InvalidRecord, Code::InvalidTimestamp, Code::PolicyViolation] {
            assert_eq!(class_of(code), Class::Poison, "{code:?}");
            assert!(!Failure::from_code(code).name.is_empty(), "{code:?}");
        }
    }

    #[test]
    fn what_an_operator_must_mend_is_held_and_never_poison() {
        for code in [
            Code::TopicAuthorizationFailed,
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::SSL,
            Code::Authentication,
        ] {
            assert_eq!(class_of(code), Class::Held, "{code:?}");
        }
    }

    #[test]
    fn a_broken_producer_session_is_fatal() {
        for code in [Code::Fatal, Code::OutOfOrderSequenceNumber, Code::Fenced, Code::InvalidProducerIdMapping] {
            assert_eq!(class_of(code), Class::Fatal, "{code:?}");
        }
    }

    #[test]
    fn what_says_nothing_about_the_record_is_sent_again() {
        for code in [Code::MessageTimedOut, Code::PurgeQueue, Code::PurgeInflight, Code::RequestTimedOut, Code::Unknown]
        {
            assert_eq!(class_of(code), Class::Retried, "{code:?}");
        }
    }

    #[test]
    fn only_a_refused_timestamp_is_marked_as_one() {
        assert!(Failure::from_code(Code::InvalidTimestamp).timestamp_refused);
        assert!(!Failure::from_code(Code::InvalidRecord).timestamp_refused);
    }
}
