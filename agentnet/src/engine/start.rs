//! Putting an agent under its policy: everything or nothing.
//!
//! Owner lock, cgroup, programs and maps, policy, links and configuration, proof, and only then the process
//! moves in: there is no moment at which it runs ungoverned in its cgroup. Whatever fails, what was done is
//! undone in reverse.

use std::{net::IpAddr, os::fd::BorrowedFd, path::PathBuf};

use agentnet_common::abi::{AgentCfg, MODE_AUDIT};
use jiff::Timestamp;

use super::{
    AGENT, SLOT,
    host::{self, Footprint},
};
use crate::{
    agent::{
        AgentName,
        cgroup::{Cgroup, CgroupError, Hierarchy},
        registry::{Listed, Meta, Registry, RegistryError},
    },
    control::{
        peer::{self, ChildError, Peer},
        protocol::{Failure, PolicySource, Run},
    },
    exit,
    kernel::{
        Kernel, KernelError, addrs,
        mounts::{self, MountError},
    },
    policy::Policy,
};

/// Why an agent was not put under its policy. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The process is not to be governed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The policy is invalid.
    #[error("{0}")]
    Policy(String),
    /// The addresses of this host are not known.
    #[error("cannot list the addresses of this host: {0}")]
    Addresses(#[source] std::io::Error),
    /// bpffs is missing.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The name is taken, or the registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The cgroup cannot be made or the process not be moved.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// There are pins that no entry of the registry accounts for.
    #[error(
        "{} exists, though no agent of that name is registered; it may enforce a policy still, so look with \
         `agentnet status` before you remove it, or choose another name with --agent",
        .0.display()
    )]
    Pinned(PathBuf),
}

impl StartError {
    /// What the client is told.
    pub fn failure(&self) -> Failure {
        let next = match self {
            Self::Registry(RegistryError::InUse(_) | RegistryError::Ownerless(_)) => {
                "; choose another name with --agent"
            }
            // A build without the programs has nothing to ask the kernel for.
            Self::Kernel(KernelError::Stub) => "",
            Self::Kernel(_) => "; `agentnet doctor` tells what this kernel lacks",
            _ => "",
        };
        let exit = if matches!(self, Self::Policy(_)) { exit::WRONG_USAGE } else { exit::OWN_FAILURE };
        Failure { message: format!("{self}{next}"), exit }
    }
}

type Result<T, E = StartError> = std::result::Result<T, E>;

/// An agent under its policy.
#[derive(Debug)]
pub struct Governed {
    /// The programs, maps and links.
    pub kernel: Kernel,
    /// The policy.
    pub policy: Policy,
    /// The configuration that is in force.
    pub cfg: AgentCfg,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// What the registry says.
    pub meta: Meta,
    /// What the agent has on this host.
    pub footprint: Footprint,
}

/// Puts the process behind `pidfd`, a child of `client`, under the policy that `run` asks for, as `agent`.
///
/// # Errors
/// See [`StartError`]; everything is then as it was.
pub fn start(agent: &AgentName, run: &Run, client: Peer, pidfd: BorrowedFd<'_>) -> Result<Governed> {
    let pid = peer::child(client, pidfd)?;
    let local = addrs::local_addresses().map_err(StartError::Addresses)?;
    let policy = policy(run, &local)?;
    let cfg = policy.compiled.agent_cfg(AGENT, SLOT, 1);
    let hierarchy = Hierarchy::find()?;
    let bpffs = mounts::ensure_bpffs()?;

    let registry = Registry::system();
    let exclusive = registry.exclusive()?;
    for (name, result) in registry.collect(&exclusive, &host::System)? {
        match result {
            Ok(()) => tracing::info!(agent = %name, "cleared what a dead engine had left"),
            Err(error) => tracing::warn!(agent = %name, %error, "cannot clear what a dead engine has left"),
        }
    }
    let origin = hierarchy.of(pid);
    let parent = parent(&hierarchy, origin.as_ref().ok(), &registry.list()?);
    let entry = registry.claim(&exclusive, agent)?;
    let meta = Meta {
        cgroup: parent.join(agent),
        pins: host::pin_directory(&bpffs, agent),
        started: Timestamp::now(),
        policy: policy.compiled.name.clone(),
        audit: cfg.mode == MODE_AUDIT,
        client: client.pid,
        uid: client.uid,
    };
    if meta.pins.exists() {
        entry.remove(&exclusive)?;
        return Err(StartError::Pinned(meta.pins));
    }
    entry.write(&meta)?;
    // From here on an error takes down what there is.
    let mut footprint = Footprint::new(exclusive, entry, &meta);
    let cgroup = Cgroup::create(&parent, agent)?;
    footprint.has_cgroup();
    let mut kernel = Kernel::load(&meta.pins)?;
    kernel.install(SLOT, &policy.compiled)?;
    kernel.attach(cgroup.path(), cfg)?;

    // The number is believed only as long as the pidfd names it.
    if peer::pid(pidfd)? != pid {
        return Err(ChildError::Gone.into());
    }
    if let Ok(origin) = origin {
        footprint.takes_from(origin, pid);
    }
    cgroup.place(&hierarchy, pid)?;
    Ok(Governed { kernel, policy, cfg, cgroup, meta, footprint })
}

/// The policy that is asked for, parsed anew: what the client made of it is not believed.
fn policy(run: &Run, local: &[IpAddr]) -> Result<Policy> {
    let Some(PolicySource { file, text }) = &run.policy else { return Ok(Policy::audit()) };
    let mut policy = Policy::from_text(file, text, local)
        .map_err(|problems| StartError::Policy(problems.render(false)))?;
    if run.audit {
        policy.force_audit();
    }
    Ok(policy)
}

/// The directory below which the agent's cgroup is made, for a process that comes from `origin`.
///
/// A process that is governed already stays below the agents it is in: all their policies apply to it. Its
/// own cgroup is taken if it is root's, or else the innermost agent's: from below a cgroup that a user may
/// write to, the agent could be moved away.
fn parent(hierarchy: &Hierarchy, origin: Option<&Cgroup>, agents: &[Listed]) -> PathBuf {
    let Some(origin) = origin else { return hierarchy.home() };
    let above = agents
        .iter()
        .filter_map(|listed| listed.meta.as_ref())
        .map(|meta| &meta.cgroup)
        .filter(|cgroup| origin.path().starts_with(cgroup))
        .max_by_key(|cgroup| cgroup.components().count());
    match above {
        None => hierarchy.home(),
        Some(_) if origin.is_roots() => origin.path().to_owned(),
        Some(agent) => agent.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::registry::Owner;

    fn listed(cgroup: &std::path::Path) -> Listed {
        let meta = Meta {
            cgroup: cgroup.to_owned(),
            pins: "/pins".into(),
            started: Timestamp::UNIX_EPOCH,
            policy: "p".into(),
            audit: false,
            client: 1,
            uid: 0,
        };
        Listed { name: "a".parse().unwrap(), owner: Owner::Alive, meta: Some(meta), socket: "/s".into() }
    }

    #[test]
    fn who_is_governed_stays_below() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::at(root.path());
        let home = hierarchy.home();
        let outer = home.join("outer");
        let own = outer.join("own");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("cgroup.procs"), "").unwrap();
        let agents = [listed(&outer), listed(&home.join("other"))];
        let parent = |cgroup: &std::path::Path, agents: &[Listed]| {
            super::parent(&hierarchy, Some(&Cgroup::at(cgroup)), agents)
        };
        assert_eq!(parent(root.path(), &agents), home);
        assert_eq!(parent(&own, &[]), home, "an unregistered directory governs nobody");
        assert_eq!(parent(&home.join("outer-2"), &agents), home, "a name that begins alike is another");
        assert_eq!(super::parent(&hierarchy, None, &agents), home);
        let roots = rustix::process::geteuid().is_root();
        assert_eq!(parent(&own, &agents), if roots { own.clone() } else { outer.clone() });
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(parent(&own, &agents), outer, "others may write there");
    }
}
