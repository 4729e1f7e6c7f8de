//! A stand-in for a Schema Registry: it speaks the part of Confluent's HTTP API that producers and deserialisers use,
//! keeps everything in memory, and can be away, silent or unwilling.
//!
//! Its compatibility rule is cruder than a real one's: a field that is there keeps its type, and in Protobuf its
//! number.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// How it behaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mood {
    /// As a registry does.
    #[default]
    Willing,
    /// Takes connections and closes them.
    Away,
    /// Takes connections and says nothing, until it is in another mood.
    Silent,
    /// Refuses to register, with this status and these words.
    Unwilling(u16, String),
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    /// `user:password` in base 64, where it wants one.
    credentials: Option<String>,
    /// Type and text; the id of the first is [`FIRST_ID`].
    schemas: Vec<(String, String)>,
    subjects: HashMap<String, Vec<u32>>,
    ends: bool,
}

const FIRST_ID: u32 = 1_001;

/// A stand-in that serves until it is dropped.
pub struct StandIn {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// On a free port of the loopback interface.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same over TLS, with a certificate for 127.0.0.1 that `registry-ca.pem` has signed.
    pub fn start_tls() -> Self {
        let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name);
        let certificate = CertificateDer::from_pem_file(file("registry.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("registry.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        Self::start_with(Some(Arc::new(config.unwrap())))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut kept = Vec::new();
            for connection in listener.incoming() {
                let mood = {
                    let state = shared.lock().unwrap();
                    if state.ends {
                        return;
                    }
                    state.mood.clone()
                };
                let connection = connection.unwrap();
                match mood {
                    Mood::Silent => kept.push(connection),
                    Mood::Away => drop(connection),
                    // A client that leaves in the middle is its own affair.
                    Mood::Willing | Mood::Unwilling(..) => match &tls {
                        None => drop(serve(connection, &shared)),
                        Some(config) => {
                            let session = ServerConnection::new(Arc::clone(config)).unwrap();
                            drop(serve(StreamOwned::new(session, connection), &shared));
                        }
                    },
                }
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how it behaves from the next connection on.
    pub fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Wants these from now on.
    pub fn wants(&self, credentials: &str) {
        self.state().credentials = Some(credentials.to_owned());
    }

    /// The text of a schema.
    pub fn schema(&self, id: u32) -> String {
        self.state().schemas[(id - FIRST_ID) as usize].1.clone()
    }

    /// How many versions a subject has.
    pub fn versions(&self, subject: &str) -> usize {
        self.state().subjects.get(subject).map_or(0, Vec::len)
    }

    /// Loses everything, like one that was set up anew; ids begin again behind some of others.
    pub fn forget(&self) {
        let mut state = self.state();
        state.subjects.clear();
        state.schemas = vec![("AVRO".into(), "\"string\"".into()); 5];
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // A thread that is gone has said why.
        self.state().ends = true;
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(connection: impl Read + Write, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found =
            lines.iter().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let Some(request) = lines.first() else { return Ok(()) };
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut state = state.lock().unwrap();
    let wanted = state.credentials.as_ref().map(|credentials| format!("Basic {credentials}"));
    let (status, answer) = if wanted.is_some() && wanted != header("authorization") {
        refusal(401, 40_101, "Unauthorized")
    } else {
        let path = path.split('?').next().unwrap();
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        state.answer(method, &parts, &body)
    };
    let answer = answer.to_string();
    let out = reader.get_mut();
    write!(
        out,
        "HTTP/1.1 {status} -\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    )?;
    out.flush()
}

fn refusal(status: u16, code: u32, words: &str) -> (u16, Value) {
    (status, json!({ "error_code": code, "message": words }))
}

impl State {
    fn answer(&mut self, method: &str, path: &[&str], body: &[u8]) -> (u16, Value) {
        match (method, path) {
            ("GET", ["subjects", subject, "versions", "latest"]) => match self.subjects.get(*subject) {
                None => refusal(404, 40_401, "Subject not found."),
                Some(ids) => (200, self.version(subject, ids.len() - 1)),
            },
            ("GET", ["schemas", "ids", id]) => {
                let index = id.parse::<u32>().ok().and_then(|id| id.checked_sub(FIRST_ID));
                match index.and_then(|index| self.schemas.get(index as usize)) {
                    None => refusal(404, 40_403, "Schema not found"),
                    Some((kind, text)) => (200, json!({ "schema": text, "schemaType": kind })),
                }
            }
            ("POST", ["subjects", subject, "versions"]) => match self.mood.clone() {
                Mood::Unwilling(status, words) => refusal(status, u32::from(status), &words),
                _ => self.register(subject, &serde_json::from_slice(body).unwrap()),
            },
            _ => refusal(404, 404, "HTTP 404 Not Found"),
        }
    }

    fn version(&self, subject: &str, index: usize) -> Value {
        let id = self.subjects[subject][index];
        let (kind, text) = &self.schemas[(id - FIRST_ID) as usize];
        json!({ "subject": subject, "version": index + 1, "id": id, "schemaType": kind, "schema": text })
    }

    fn register(&mut self, subject: &str, wish: &Value) -> (u16, Value) {
        let (kind, text) = (wish["schemaType"].as_str().unwrap(), wish["schema"].as_str().unwrap());
        let members = members(kind, text);
        if members.is_empty() {
            return refusal(422, 42_201, "Invalid schema");
        }
        let ids = self.subjects.entry(subject.to_owned()).or_default();
        if let Some(last) = ids.last() {
            let (_, before) = &self.schemas[(last - FIRST_ID) as usize];
            for (name, what) in self::members(kind, before) {
                if members.get(&name).is_some_and(|now| *now != what) {
                    return refusal(409, 409, &format!("Schema being registered is incompatible: {name}"));
                }
            }
        }
        let schema = (kind.to_owned(), text.to_owned());
        let known = self.schemas.iter().position(|known| *known == schema);
        let index = known.unwrap_or_else(|| {
            self.schemas.push(schema);
            self.schemas.len() - 1
        });
        let id = FIRST_ID + index as u32;
        if !ids.contains(&id) {
            ids.push(id);
        }
        (200, json!({ "id": id }))
    }
}

/// What must not change under each name, or number.
fn members(kind: &str, schema: &str) -> HashMap<String, String> {
    if kind == "PROTOBUF" {
        let of_line = |line: &str| {
            let (what, number) = line.trim().split_once(" = ")?;
            Some((number.split([' ', ';']).next()?.to_owned(), what.to_owned()))
        };
        return schema.lines().filter(|line| line.starts_with("  ")).filter_map(of_line).collect();
    }
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let fields = schema["fields"].as_array().cloned().unwrap_or_default();
    fields.iter().map(|field| (field["name"].to_string(), field["type"].to_string())).collect()
}
