//! Hands a token to a client that does not ask for one: rdkafka's admin client serves no events of its own.
#![allow(unsafe_code)] // one call of the client library, which rdkafka makes only where it serves events

use std::ffi::{CStr, CString};
use std::ptr;

use rdkafka::ClientContext;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::types::RDKafkaRespErr;

/// The client logs in with this token from now on, until the token ends.
///
/// # Errors
/// In the library's words: the token has expired, or the client does not log in by token.
pub(in crate::kafka) fn hand_over<C: ClientContext>(client: &Client<C>, token: &OAuthToken) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| "the token or kafka.client-id has a zero byte".to_owned());
    let (value, principal) = (text(&token.token)?, text(&token.principal_name)?);
    let mut why = [0_u8; 256];
    // SAFETY: the client lives as long as it is borrowed. Both strings end with a zero and outlive the call, which copies
    // them; no extensions are given; of `why` no more than its length is written.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            why.as_mut_ptr().cast(),
            why.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    Err(CStr::from_bytes_until_nul(&why).map_or_else(|_| String::new(), |why| why.to_string_lossy().into_owned()))
}
