//! Tokens that are fresh, old, no tokens at all, late.

use super::*;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

fn tokens(origin: TokenOrigin) -> Tokens {
    Tokens { origin, lifetime: Duration::from_secs(60), principal: "truck-17".into(), state: Mutex::default() }
}

fn jwt(claims: &str) -> String {
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims))
}

fn shell(script: &str) -> Tokens {
    tokens(TokenOrigin::Command(["sh", "-c", script].map(str::to_owned).to_vec()))
}

#[test]
fn a_jwt_says_when_it_expires_and_other_tokens_have_the_configured_life() {
    let tokens = tokens(TokenOrigin::File("/nowhere".into()));
    let expires = |text: &str| tokens.fresh(text, 1_000).unwrap().expires_ms;
    assert_eq!(expires(&jwt(r#"{"sub":"a","exp":2}"#)), 2_000);
    assert_eq!(expires(&jwt(r#"{"exp":2.5}"#)), 2_500);
    assert_eq!(expires(&jwt(r#"{"exp":1e300}"#)), i64::MAX);
    for without in [jwt(r#"{"sub":"a"}"#), jwt("no json"), "opaque".into(), "a.b.c".into(), "a.=.".into()] {
        assert_eq!(expires(&format!(" {without}\n")), 61_000, "{without}");
    }
}

#[test]
fn what_cannot_log_in_is_refused_with_the_reason() {
    let tokens = tokens(TokenOrigin::File("/nowhere".into()));
    let why = |text: &str| tokens.fresh(text, 5_000).unwrap_err();
    assert!(why(&jwt(r#"{"exp":2}"#)).contains("expired 3 s ago"));
    assert!(why(" \n").contains("no token"));
    assert!(why("two words").contains("byte 3"));
    assert!(why("nul\0").contains("byte 3"));
    assert!(!format!("{:?}", tokens.fresh("secret", 0)).contains("secret"), "tokens are not shown");
}

#[test]
fn a_file_is_read_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let tokens = tokens(TokenOrigin::File(file.clone()));
    assert!(tokens.next().err().unwrap().contains("token-file"));
    for text in ["one", "two"] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(tokens.next().unwrap().token, text);
    }
    std::fs::write(&file, "x".repeat(TOKEN_BYTES_MAX + 1)).unwrap();
    assert!(tokens.next().err().unwrap().contains("longer than 16384 bytes"));
}

#[test]
fn a_commands_failure_is_said_and_the_next_run_may_do_better() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark").display().to_string();
    let tokens = shell(&format!("cat {mark} && echo token"));
    assert!(tokens.next().err().unwrap().contains("token-command sh: ended with exit status: 1"));
    std::fs::write(&mark, "").unwrap();
    assert_eq!(tokens.next().unwrap().token, "token");
}

#[test]
fn the_token_in_hand_serves_while_the_command_runs() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // It prints what somebody writes into the gate, and waits for that.
    let tokens = shell(&format!("cat {}", gate.display()));
    let now = now_ms();
    tokens.state.lock().unwrap().current = Some(Token { text: "old".into(), expires_ms: now + 600_000 });
    let served = tokens.next().unwrap();
    assert_eq!(served.token, "old");
    assert!(served.lifetime_ms < now + 600_000, "the client asks again before the old one ends");
    std::fs::write(&gate, "new").unwrap();
    let deadline = now + 10_000;
    while tokens.next().unwrap().token != "new" {
        assert!(now_ms() < deadline, "the command's token never came");
        std::thread::yield_now();
    }
    assert_eq!(tokens.state.lock().unwrap().current.as_ref().unwrap().text, "new");
}
