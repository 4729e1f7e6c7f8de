//! `[kafka.sasl]`: how the agent logs in.

use std::path::Path;

use super::reader::Table;
use super::resolved::{Sasl, TokenOrigin};
use super::secret::{self, Secrets};

/// Most words of a token command.
const COMMAND_WORDS_MAX: usize = 32;

const PASSWORD_KEYS: [&str; 3] = ["username", "password-file", "password-credential"];
const TOKEN_KEYS: [&str; 3] = ["token-file", "token-command", "token-lifetime"];

/// Reads `[kafka.sasl]`; keys of the other kind of login are mistakes, as they would have no effect.
pub(super) fn read_sasl(table: &Table<'_>, secrets: Secrets<'_>) -> Option<Sasl> {
    let mechanism = table.word("mechanism")?;
    let by_token = mechanism == "OAUTHBEARER";
    for key in if by_token { PASSWORD_KEYS } else { TOKEN_KEYS } {
        if table.has(key) {
            let message = format!("has no meaning with mechanism \"{mechanism}\"; remove it");
            table.error(&table.place_of(key), key, message);
        }
    }
    if by_token { token(table, secrets) } else { password(table, mechanism, secrets) }
}

fn password(table: &Table<'_>, mechanism: &str, secrets: Secrets<'_>) -> Option<Sasl> {
    let username = table.text("username");
    if !table.has("username") {
        table.error(&table.at, "username", format!("missing; needed by {mechanism}: text"));
    }
    let password = secret::read(table, secrets);
    if !table.has("password-file") && !table.has("password-credential") {
        table.error(&table.at, "password-file", "missing; needed: password-file or password-credential".to_owned());
    }
    Some(Sasl::Password { mechanism: mechanism.to_owned(), username: username?, password: password? })
}

fn token(table: &Table<'_>, secrets: Secrets<'_>) -> Option<Sasl> {
    let lifetime = table.duration("token-lifetime");
    let directory = if let Secrets::Read(directory) = secrets { directory } else { Path::new("") };
    let origin = match (table.has("token-file"), table.has("token-command")) {
        (true, false) => table.text("token-file").map(|file| TokenOrigin::File(directory.join(file))),
        (false, true) => {
            let words: Vec<String> = table
                .texts("token-command", 1..=COMMAND_WORDS_MAX)
                .into_iter()
                .map(|(word, _)| word.to_owned())
                .collect();
            (!words.is_empty()).then_some(TokenOrigin::Command(words))
        }
        (false, false) => {
            table.error(&table.at, "token-file", "missing; needed: token-file or token-command".to_owned());
            None
        }
        (true, true) => {
            let message = "token-file is written too; allowed: one of the two".to_owned();
            table.error(&table.place_of("token-command"), "token-command", message);
            None
        }
    };
    Some(Sasl::Token { origin: origin?, lifetime: lifetime? })
}
