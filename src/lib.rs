//! Forebay reads GNSS receivers, serial sensors, Modbus units and local MQTT on an ARM Linux gateway, publishes the
//! readings that are not from there on the local MQTT broker, keeps all of them in a store-and-forward queue while the
//! uplink is away, and drains the queue into Kafka when it returns.
//!
//! # The way of a reading
//!
//! ```text
//!  serial port ─┐
//!  Modbus bus ──┼─ source ─ decode ─▶ Reading ─▶ hub ─┬─▶ queue ──▶ uplink ──▶ Kafka      must arrive
//!  local MQTT ──┘                     (bounded)       └─▶ mqtt ───▶ local broker          best effort, QoS as configured
//! ```
//!
//! There is one way to Kafka, always through the queue: an outage is only a longer queue, not another mode.
//!
//! # Layout
//!
//! | module | what it is |
//! |---|---|
//! | [`reading`] | what flows: readings, records, positions |
//! | [`clock`] | boot time, wall time and how far it can be trusted |
//! | [`config`] | what the user wrote, and what the agent uses |
//! | [`metrics`] | the counters, a leaf |
//! | [`source`] | owns the ports and connections readings come from |
//! | [`decode`] | bytes and registers in, fields out; pure |
//! | [`hub`] | stamps, routes, hands to the queue and then to MQTT |
//! | [`queue`] | store-and-forward on sled |
//! | [`mqtt`] | the local broker: session, publisher, outbox |
//! | [`kafka`] | the only rdkafka code: client, settings, error classes, consumer |
//! | [`registry`] | a Schema Registry over HTTP |
//! | [`uplink`] | drains streams into Kafka |
//! | [`status`] | `/metrics`, `/healthz`, `/readyz`, `/status` and a page |
//! | [`backoff`] | delays between tries |
//! | [`control`] | the socket by which `forebay queue` asks a running agent |
//! | [`agent`] | wires the tasks; reload; shutdown in order |
//! | [`cli`] | one file per command |
//! | `demo` | embedded broker, embedded Kafka, simulated devices (feature `demo`) |
//!
//! | beside `src/` | what it is |
//! |---|---|
//! | `x` | the developers' door: demo, test, real, bench, arm, ci |
//! | `scripts/` | what the door needs more than a line for: the cross build and its environment |
//! | `tests/` | one folder a subject; `tests/real` needs real servers |
//! | `benches/`, `fuzz/` | what a reading costs, against a plain file and a bare producer; any bytes at what decodes |
//! | `systemd/`, `yocto-layer/` | the unit with an example configuration; the recipe for images |
//! | `docs/` | the reference, formats, measurements, and `docs/decisions` |
//!
//! # Threads and tasks
//!
//! One Tokio runtime carries a task for each source, the hub, the MQTT publisher, the status listener and the control
//! socket; they hand over through bounded channels and short locks. OS threads stand beside it:
//!
//! - `queue-store` keeps the blocks. It alone touches sled, but for the start: the thread that opens the queue reads the
//!   control state and saves the new run in it.
//! - `uplink` drains, and alone polls the producer. It reads with `peek`, which removes nothing, and acknowledges what
//!   Kafka has reported delivered.
//! - What may take long would keep it waiting, so it has threads of its own: `registrar` speaks with the Schema Registry,
//!   `uplink-watchdog` asks with another client whether the cluster could take records, `kafka-token` runs the command
//!   that prints a token. The last two live as long as one question.
//!
//! The hub's push into the queue does no I/O.
//!
//! # Invariants
//!
//! Each has a test; those about the text of the program are in `tests/tidy`.
//!
//! 1. One module names each big dependency (`demo` excepted). `tests/tidy`
//! 2. No record leaves the queue unacknowledged, except by retention or dead letter, counted and marked by `skipped`.
//!    `tests/queue_model` (random histories against a model, on memory, plain files and sled)
//! 3. No unbounded channel, buffer, retry or file. `tests/tidy` (channels); the limits of the rest stand beside them
//! 4. Decoders never panic and never allocate beyond their stated cap, on any input. Property tests beside each, `fuzz/`
//! 5. No source, MQTT or status code waits for the uplink, and no uplink code waits for them; except an MQTT source of a
//!    `reject-newest` stream whose quota is full. `tests/agent`, `tests/real`
//! 6. No sled call on an async thread; no I/O in `push`. `tests/queue_model` (a store that stalls)
//! 7. Order by position; time is data, and as good as what is known of the clock when a record is read. `tests/uplink`,
//!    `tests/queue_model`, `tests/real`
//! 8. Every error a user can cause names the thing, the value and the limit, and where it is written.
//!    `tests/configuration`, `tests/agent`

pub mod agent;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod decode;
#[cfg(feature = "demo")]
pub mod demo;
pub mod hub;
pub mod kafka;
pub mod metrics;
pub mod mqtt;
pub mod queue;
pub mod reading;
pub mod registry;
pub mod source;
pub mod status;
pub mod uplink;
