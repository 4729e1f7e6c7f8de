//! Bearer tokens for OAUTHBEARER: from a file that something else renews, or printed by a command.
//!
//! The client asks when it is made, again when a token has used up four fifths of its life, and 10 s after it was told
//! that there is none. A file is read at once; a command runs on a thread of its own, as it may take as long as a dead
//! link, while the token in hand still serves.

mod command;
mod hand_over;

use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rdkafka::client::OAuthToken;

use crate::config::{Kafka, Sasl, TokenOrigin};

pub(super) use hand_over::hand_over;

/// Longest token; identity providers' are 1 to 4 KiB.
pub(super) const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest wait for a command while no token is in hand: nothing can be sent without one, but a stop must not wait.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(2);
/// While a command still runs the old token is handed out for so long, so that the client asks again soon.
const ASK_AGAIN: Duration = Duration::from_millis(2_500);

/// A token and when it ends.
#[derive(Clone, PartialEq, Eq)]
struct Token {
    text: String,
    /// Milliseconds since 1970 UTC, by this machine's clock.
    expires_ms: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "*** until {}", self.expires_ms)
    }
}

/// Fetches the tokens of one client.
#[derive(Debug)]
pub(super) struct Tokens {
    origin: TokenOrigin,
    lifetime: Duration,
    /// Shown in the client's log only; the broker takes the name from the token.
    principal: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Token>,
    /// The command that runs.
    running: Option<Receiver<Result<String, String>>>,
}

impl Tokens {
    /// Where the configuration has tokens; fetches nothing yet.
    pub(super) fn new(kafka: &Kafka) -> Option<Self> {
        let Some(Sasl::Token { origin, lifetime }) = &kafka.sasl else { return None };
        let principal = kafka.client_id.clone();
        Some(Self { origin: origin.clone(), lifetime: *lifetime, principal, state: Mutex::default() })
    }

    /// A token for the client.
    ///
    /// # Errors
    /// In words: the file cannot be read, the command failed or still runs, what came is no token, or it has expired.
    pub(super) fn next(&self) -> Result<OAuthToken, String> {
        let token = match &self.origin {
            TokenOrigin::File(file) => self.fresh(&read(file)?, now_ms())?,
            TokenOrigin::Command(words) => self.of_command(words)?,
        };
        Ok(OAuthToken { token: token.text, principal_name: self.principal.clone(), lifetime_ms: token.expires_ms })
    }

    /// What the command printed; the token in hand while it runs.
    fn of_command(&self, words: &[String]) -> Result<Token, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let in_hand = state.current.clone().filter(|token| token.expires_ms > now_ms() + as_ms(ASK_AGAIN));
        let running = match state.running.take() {
            Some(running) => running,
            None => start(words)?,
        };
        let wait = if in_hand.is_some() { Duration::ZERO } else { FIRST_WAIT_MAX };
        let printed = match running.recv_timeout(wait) {
            Ok(printed) => printed?,
            Err(RecvTimeoutError::Disconnected) => return Err("kafka.sasl.token-command ended badly".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                state.running = Some(running);
                let still_runs = || "kafka.sasl.token-command has not printed a token yet".to_owned();
                let token = in_hand.ok_or_else(still_runs)?;
                return Ok(Token { expires_ms: now_ms() + as_ms(ASK_AGAIN), ..token });
            }
        };
        let token = self.fresh(&printed, now_ms()).map_err(|why| format!("kafka.sasl.token-command: {why}"))?;
        state.current = Some(token.clone());
        Ok(token)
    }

    /// The token that `text` is.
    fn fresh(&self, text: &str, now_ms: i64) -> Result<Token, String> {
        let text = text.trim();
        // RFC 6750, section 2.1.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.is_empty() {
            return Err("there is no token in it".to_owned());
        }
        if let Some(at) = text.bytes().position(|byte| !is_allowed(byte)) {
            return Err(format!(
                "it is no token: byte {at} of {} is not a letter, digit or one of -._~+/=",
                text.len()
            ));
        }
        let expires_ms = expiry_ms(text).unwrap_or_else(|| now_ms.saturating_add(as_ms(self.lifetime)));
        if expires_ms <= now_ms {
            let ago_s = now_ms.saturating_sub(expires_ms) / 1000;
            return Err(format!("the token expired {ago_s} s ago by this machine's clock"));
        }
        Ok(Token { text: text.to_owned(), expires_ms })
    }
}

fn read(file: &Path) -> Result<String, String> {
    let failed = |why: String| format!("kafka.sasl.token-file {}: {why}", file.display());
    let opened = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    if !opened.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(failed("it is not a file".to_owned()));
    }
    let mut text = String::new();
    let limit = TOKEN_BYTES_MAX as u64 + 1;
    opened.take(limit).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() > TOKEN_BYTES_MAX {
        return Err(failed(format!("it is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn start(words: &[String]) -> Result<Receiver<Result<String, String>>, String> {
    let words = words.to_vec();
    let (reply, running) = sync_channel(1);
    let run = move || {
        // Nobody waits any more where the client was changed meanwhile.
        let _ = reply.send(command::run(&words).map_err(|why| format!("kafka.sasl.token-command {why}")));
    };
    let started = std::thread::Builder::new().name("kafka-token".into()).spawn(run);
    started.map(|_| running).map_err(|error| format!("kafka.sasl.token-command: no thread: {error}"))
}

/// When a JWT expires (RFC 7519, `exp`), in milliseconds since 1970 UTC; `None` where the token is no JWT or does not
/// say. Its signature is the broker's to verify.
fn expiry_ms(token: &str) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: f64,
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let payload = GeneralPurpose::new(&URL_SAFE, lenient).decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    // A float becomes the nearest integer there is.
    Some((claims.exp * 1000.0) as i64)
}

fn now_ms() -> i64 {
    crate::clock::wall_us() / 1000
}

fn as_ms(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
