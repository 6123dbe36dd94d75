//! `agentnet attach`: put what runs already under a policy.

use std::{path::PathBuf, process::ExitCode};

use super::policies;
use crate::{
    agent::{
        AgentName,
        cgroup::Hierarchy,
        target::{Spec, Target},
    },
    control::{
        client,
        protocol::{Attach, Request},
    },
};

/// Arguments of `agentnet attach`.
#[derive(Clone, Debug, clap::Args)]
pub struct AttachArgs {
    /// Name of the agent
    #[arg(long, value_name = "NAME")]
    agent: AgentName,
    #[command(flatten)]
    place: Place,
    /// The policy: a name, which the daemon looks up and follows, or a file (with a slash in its path, or ending
    /// in .toml), which is read now. Without one nothing is blocked
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Block nothing; report what the policy would refuse
    #[arg(long)]
    audit: bool,
    /// Leave connections open that the policy would not have allowed: they may go on, and an alert tells of them
    #[arg(long)]
    keep_established: bool,
    /// Govern the cgroup of a process although it shares it with others
    #[arg(long)]
    whole_cgroup: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// A cgroup, by its directory
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// The cgroup of a process
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// A systemd unit
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// A container, by name or id
    #[arg(long, value_name = "CONTAINER")]
    container: Option<String>,
}

impl Place {
    fn spec(self) -> anyhow::Result<Spec> {
        let Self { cgroup, pid, unit, container } = self;
        let target = cgroup
            .map(Spec::Cgroup)
            .or(pid.map(Spec::Pid))
            .or(unit.map(Spec::Unit))
            .or(container.map(Spec::Container));
        target.ok_or_else(|| anyhow::anyhow!("say what to attach: --cgroup, --pid, --unit or --container"))
    }
}

/// Asks the daemon to govern a cgroup.
///
/// # Errors
/// If there is no daemon, or it refuses.
pub fn run(args: AttachArgs) -> anyhow::Result<ExitCode> {
    let policy = match args.policy.as_deref().map(|policy| policies::source(policy, false)) {
        Some(Err(code)) => return Ok(ExitCode::from(code)),
        Some(Ok(source)) => Some(source),
        None => None,
    };
    let target = match args.place.spec()? {
        // Found by other programs, which are not the daemon's to run and to wait for.
        spec @ (Spec::Unit(_) | Spec::Container(_)) => {
            let target = Target::resolve(&Hierarchy::find()?, &spec, args.whole_cgroup)?;
            Spec::Cgroup(target.cgroup.path().to_owned())
        }
        spec => spec,
    };
    let request = Request::Attach(Attach {
        agent: args.agent,
        target,
        policy,
        audit: args.audit,
        keep_established: args.keep_established,
        whole_cgroup: args.whole_cgroup,
    });
    super::say(&client::ask_daemon(&request)?)?;
    Ok(ExitCode::SUCCESS)
}
