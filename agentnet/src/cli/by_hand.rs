//! What the commands that act by hand share: who is asked, and how it is told.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use jiff::{Span, SpanRelativeTo};

use crate::{
    act::{Acted, Order},
    agent::{
        AgentName,
        registry::{EngineKind, Owner, Registry},
    },
    control::{
        client::{self, ClientError},
        frame::FrameError,
        protocol::{Failure, Reply, Request},
    },
};

/// Why, and how it is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Words {
    /// Why, for whoever looks at it later: in `status`, in the alert stream, and with every refusal
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Print one JSON object for each engine
    #[arg(long)]
    pub(super) json: bool,
}

/// A length of time, such as 90s, 10m, 2h or 1d.
///
/// # Errors
/// If it is none.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no length of time; write 90s, 10m, 2h or 1d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let length = Duration::try_from(length).map_err(|_| wrong())?;
    if length.as_secs() == 0 {
        Err(format!("`{text}` is too short; one second is the least"))
    } else {
        Ok(length)
    }
}

/// Has the engine of the order's agent do it, or, where it is for every agent, every engine that there is.
///
/// # Errors
/// If there is no such engine, or one does not do it.
pub(super) fn give(order: &Order, json: bool) -> anyhow::Result<ExitCode> {
    let request = Request::Act(order.clone());
    let mut failed = Vec::new();
    for socket in engines(order.agent.as_ref())? {
        match client::ask(&socket, &request) {
            Ok(Reply::Acted(acted)) => tell(&acted, json)?,
            Ok(_) => failed.push(ClientError::Unexpected),
            Err(ClientError::Frame(FrameError::Io(error))) if error.kind() == ErrorKind::PermissionDenied => {
                failed.push(Failure::denied("only root may act on agents by hand; use sudo").into());
            }
            Err(error) => failed.push(error),
        }
    }
    let mut failed = failed.into_iter();
    let Some(first) = failed.next() else { return Ok(ExitCode::SUCCESS) };
    for error in failed {
        super::complain(&error.to_string());
    }
    match first {
        ClientError::Failure(failure) => {
            super::complain(&failure.to_string());
            Ok(ExitCode::from(failure.exit))
        }
        error => Err(error.into()),
    }
}

fn tell(acted: &Acted, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(super::say(&serde_json::to_string(acted)?)?);
    }
    let agents: Vec<&str> = acted.agents.iter().map(AgentName::as_str).collect();
    let whom = match (acted.act.as_ref().and_then(|act| act.agent.as_ref()), agents.as_slice()) {
        (Some(agent), _) => format!("agent {agent}"),
        (None, []) => "every agent, of which there is none now".to_owned(),
        (None, agents) => format!("every agent, now {}", agents.join(", ")),
    };
    super::say(&format!("{whom}: {}", acted.done))?;
    for note in &acted.notes {
        super::say(&format!("    {note}"))?;
    }
    Ok(())
}

/// Where the engines answer that are to be asked.
fn engines(agent: Option<&AgentName>) -> anyhow::Result<Vec<PathBuf>> {
    let daemon = PathBuf::from(client::DAEMON_SOCKET);
    let listed = Registry::system().list().context("cannot tell who governs what")?;
    let Some(agent) = agent else {
        let is_run = |kind: EngineKind| kind == EngineKind::Run;
        let alone = listed.into_iter().filter(|listed| {
            // Whoever may not know which live is told so by those that do.
            listed.owner != Owner::Gone && listed.meta.as_ref().is_some_and(|meta| is_run(meta.engine))
        });
        let mut sockets: Vec<PathBuf> = alone.map(|listed| listed.socket).collect();
        if serves(&daemon) {
            sockets.insert(0, daemon);
        }
        if sockets.is_empty() {
            bail!(
                "nobody governs anything here; start the daemon with `systemctl start agentnet` or `agentnet daemon`"
            );
        }
        return Ok(sockets);
    };
    let found = listed.into_iter().find(|listed| listed.name == *agent);
    match found {
        Some(listed) if listed.owner == Owner::Gone => bail!(
            "the engine of agent {agent} is gone: its policy holds as it is, and nobody can change it; start the daemon again, \
             or give up its policy with `agentnet reset`"
        ),
        Some(listed) if listed.meta.as_ref().is_some_and(|meta| meta.engine == EngineKind::Run) => {
            Ok(vec![listed.socket])
        }
        // The daemon knows also those that are not there now.
        Some(_) | None if serves(&daemon) => Ok(vec![daemon]),
        Some(_) | None => bail!("there is no agent `{agent}`; see `agentnet status`"),
    }
}

/// Whether anybody answers there, as far as that can be told without asking.
fn serves(socket: &Path) -> bool {
    match client::connect(socket) {
        Err(ClientError::Frame(FrameError::Io(error))) => !client::is_absence(&error),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("90s", Some(90))]
    #[case("10m", Some(600))]
    #[case("1h30m", Some(5400))]
    #[case("1d", Some(86_400))]
    #[case("2w", Some(1_209_600))]
    #[case("0s", None)]
    #[case("-5m", None)]
    #[case("10", None)]
    #[case("forever", None)]
    #[case("500ms", None)]
    #[case("1mo", None)]
    fn lengths_are_read(#[case] text: &str, #[case] seconds: Option<u64>) {
        assert_eq!(length(text).ok().map(|length| length.as_secs()), seconds);
    }
}
