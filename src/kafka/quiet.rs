//! The context of clients that only ask and read: quiet, and able to log in by token.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::token::{self, Tokens};
use crate::config::Kafka;

/// Longest single wait for a client's first question, while it fetches a token.
const LOGIN_POLL: Duration = Duration::from_millis(20);

/// Sends what the client says of its connections, and of every end of a partition as an error, to the debug log: what
/// matters comes back from the call that asks.
pub(super) struct Quiet {
    tokens: Option<Tokens>,
    token_outcome: AtomicU8,
    /// The last error of each kind, in the client's words.
    errors: Mutex<Vec<(Code, String)>>,
}

const TOKEN_PENDING: u8 = 0;
const TOKEN_THERE: u8 = 1;
const TOKEN_FAILED: u8 = 2;

impl Quiet {
    pub(super) fn new(kafka: &Kafka) -> Self {
        Self { tokens: Tokens::new(kafka), token_outcome: AtomicU8::new(TOKEN_PENDING), errors: Mutex::default() }
    }

    /// The last error of each kind that the client met by now.
    pub(super) fn errors(&self) -> Vec<(Code, String)> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a new client fetch its token: before that its questions would wait in vain, as they serve no callbacks.
    pub(super) fn log_in(client: &BaseConsumer<Self>, wait: Duration) {
        let end = Instant::now() + wait;
        let is_pending = || client.context().token_outcome.load(Ordering::Relaxed) == TOKEN_PENDING;
        while client.context().tokens.is_some() && is_pending() && Instant::now() < end {
            // Nothing is assigned yet, so what comes back is at most an error, which the callback has noted.
            let _ = client.poll(LOGIN_POLL);
        }
    }

    /// Logs in a client that serves no events, and so is never asked for a token, with one of this context, whose own
    /// client is logged in.
    pub(super) fn log_in_admin(&self, client: &AdminClient<Self>) -> Result<(), String> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        token::hand_over(client.inner(), &tokens.next()?)
    }
}

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(level = ?level, facility, message, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        // One of each kind is enough, and there are not many kinds.
        errors.retain(|(known, _)| *known != code);
        errors.push((code, reason.to_owned()));
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(tokens) = &self.tokens else { return Err("no kafka.sasl token is configured".into()) };
        let token = tokens.next();
        let outcome = if token.is_ok() { TOKEN_THERE } else { TOKEN_FAILED };
        self.token_outcome.store(outcome, Ordering::Relaxed);
        Ok(token.inspect_err(|error| tracing::warn!(error, "no token for kafka"))?)
    }
}

impl ConsumerContext for Quiet {}
