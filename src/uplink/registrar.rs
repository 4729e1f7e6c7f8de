//! Registers schemas on a thread of its own, so that a slow or absent registry keeps nobody waiting but the stream
//! whose schema it is.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::encode::{Plan, Registered};
use super::schema_cache::SchemaCache;
use crate::config::{self, STREAMS_MAX};
use crate::registry::{Client, RegistryError};

/// One stream's wish. There is at most one a stream at a time.
#[derive(Debug)]
pub struct Wish {
    /// The stream's name.
    pub stream: String,
    /// What is to be registered.
    pub plan: Plan,
}

/// What came of a wish.
#[derive(Debug)]
pub struct Outcome {
    /// The stream's name.
    pub stream: String,
    /// The schema, which has at least the columns that were wished for; or why there is none.
    pub registered: Result<Registered, Trouble>,
}

/// Why a schema is not registered.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The registry did not do it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What others registered and what we need is too much together.
    #[error("{subject:?} and the fields that are new have more than {} fields together", super::encode::COLUMNS_MAX)]
    TooManyColumns {
        /// The registry's name for the topic's schemas.
        subject: String,
    },
}

impl Trouble {
    /// A short word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry(error) => error.kind(),
            Self::TooManyColumns { .. } => "too_many_fields",
        }
    }
}

/// The thread, and the way to it and back.
pub struct Registrar {
    wishes: Option<SyncSender<Wish>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Registrar {
    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(registry: config::Registry, cache: SchemaCache, stop: &CancellationToken) -> anyhow::Result<Self> {
        let (wishes, inbox) = sync_channel::<Wish>(STREAMS_MAX);
        let (outbox, outcomes) = sync_channel(STREAMS_MAX);
        let stop = stop.child_token();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("registrar")?;
        let thread = std::thread::Builder::new()
            .name("registrar".into())
            .spawn(move || {
                let client = Client::new(registry);
                while let Ok(wish) = inbox.recv() {
                    let done = stopped.run_until_cancelled(fulfil(&client, &wish.plan));
                    let Some(registered) = runtime.block_on(done) else { break };
                    if let Ok(registered) = &registered {
                        keep(&cache, &wish, registered);
                    }
                    if outbox.send(Outcome { stream: wish.stream, registered }).is_err() {
                        break;
                    }
                }
                // A name being looked up cannot be given up; nobody waits for it.
                runtime.shutdown_background();
            })
            .context("registrar: cannot start its thread")?;
        Ok(Self { wishes: Some(wishes), outcomes, thread: Some(thread), stop })
    }

    /// Hands a wish over; gives false where it cannot be taken now.
    pub fn ask(&self, wish: Wish) -> bool {
        self.wishes.as_ref().is_some_and(|wishes| wishes.try_send(wish).is_ok())
    }

    /// The next outcome, if there is one.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }
}

impl Drop for Registrar {
    /// Gives up what is asked just now, and waits until nothing is written any more.
    fn drop(&mut self) {
        self.stop.cancel();
        self.wishes = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("registrar thread panicked; schemas are registered again when they are needed");
        }
    }
}

fn keep(cache: &SchemaCache, wish: &Wish, registered: &Registered) {
    if let Err(error) = cache.store(&wish.stream, &wish.plan, registered) {
        let error = format!("{error:#}");
        tracing::warn!(stream = wish.stream, error, "schema is not kept: the next start needs the registry");
    }
}

/// Registers what is planned. Another gateway may have been faster with fields of its own: then once more behind those.
async fn fulfil(client: &Client, plan: &Plan) -> Result<Registered, Trouble> {
    const CONFLICT: u16 = 409;
    match register(client, plan).await {
        Err(Trouble::Registry(RegistryError::Refused { status: CONFLICT, .. })) => register(client, plan).await,
        outcome => outcome,
    }
}

/// Looks what others have registered for the topic, and registers that with our columns behind it: so the latest
/// schema has the fields of the whole fleet.
async fn register(client: &Client, plan: &Plan) -> Result<Registered, Trouble> {
    let columns = match client.latest(&plan.subject).await? {
        None => plan.columns.clone(),
        Some(latest) => {
            let too_many = || Trouble::TooManyColumns { subject: plan.subject.clone() };
            plan.merged(&latest).ok_or_else(too_many)?
        }
    };
    let id = client.register(&plan.subject, plan.form.encoding, &plan.schema(&columns)).await?;
    Ok(Registered { id, columns })
}
