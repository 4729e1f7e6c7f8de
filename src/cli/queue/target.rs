//! Who does a change: the agent that runs on the queue, asked over its control socket, or this process under the lock.

use std::path::Path;
use std::sync::Arc;

use crate::control::{Client, ClientError, Command};
use crate::queue::OpenError;
use crate::queue::admin::{Step, Task};
use crate::queue::cipher::Keyring;
use crate::queue::closed::ClosedQueue;

use super::progress;

/// Who does it.
pub(super) enum Target {
    Agent(Client),
    Closed(Box<ClosedQueue>),
}

/// The agent that runs on `dir`; `None`: none does.
pub(super) fn agent_of(dir: &Path) -> anyhow::Result<Option<Client>> {
    match Client::find(dir) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::Nobody { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An agent holds the lock although nobody answered.
pub(super) fn not_answering(error: OpenError, dir: &Path) -> anyhow::Error {
    let socket = crate::control::socket_path(dir);
    let locked = matches!(error, OpenError::Locked { .. });
    let error = anyhow::Error::from(error);
    if locked {
        error.context(format!("no agent answers at {}, and the queue is held", socket.display()))
    } else {
        error
    }
}

impl Target {
    /// The agent, or else the closed queue with these keys.
    pub(super) fn find(dir: &Path, keys: &Arc<Keyring>) -> anyhow::Result<Self> {
        if let Some(client) = agent_of(dir)? {
            return Ok(Self::Agent(client));
        }
        let closed = ClosedQueue::open(dir, Arc::clone(keys)).map_err(|error| not_answering(error, dir))?;
        Ok(Self::Closed(Box::new(closed)))
    }

    /// The process id of the agent that does it.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Agent(client) => Some(client.info.pid),
            Self::Closed(_) => None,
        }
    }

    /// One step.
    pub(super) fn step(&mut self, task: Task) -> anyhow::Result<Step> {
        match self {
            Self::Closed(closed) => closed.administer(task),
            Self::Agent(client) => Ok(client.ask(command(task)?)?),
        }
    }

    /// Steps until there is no epoch left, under a bar.
    pub(super) fn all_steps(&mut self, task: impl Fn(Option<u64>) -> Task) -> anyhow::Result<Step> {
        let mut sum = Step::default();
        let mut bar = None;
        loop {
            let step = self.step(task(sum.epoch))?;
            let bar = bar.get_or_insert_with(|| progress::epochs(step.epochs_left + 1));
            if step.epoch.is_none() {
                bar.finish_and_clear();
                return Ok(sum);
            }
            sum.add(&step);
            bar.set_length(bar.position() + 1 + step.epochs_left);
            bar.inc(1);
        }
    }

    /// The end of a change.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Agent(_) => Ok(()),
            Self::Closed(closed) => closed.close(),
        }
    }
}

fn command(task: Task) -> anyhow::Result<Command> {
    Ok(match task {
        Task::Purge { stream, through } => Command::Purge { stream: stream.to_string(), through: through.to_string() },
        Task::Scrub { stream, after } => Command::Scrub { stream: stream.to_string(), after },
        Task::Rekey { after } => Command::Rekey { after },
        Task::Check { after } => Command::Check { after },
        Task::RekeyDeadLetters => Command::RekeyDeadLetters,
        Task::ForgetDeadLetters(_) => anyhow::bail!("an agent forgets dead letters only when it queues them again"),
    })
}
