//! What the verifier thinks of every program, its first review, and what each costs on real traffic.

mod exercise;
mod stack;

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use agentnet_common::abi::{AgentCfg, LOCAL_OWN, MODE_ENFORCE};
use aya::sys::{Stats, enable_stats};
use serde::{Deserialize, Serialize};

pub use exercise::exercise;

use super::{
    Kernel, KernelError,
    links::{GATES, HOOKS, TAILS},
    mounts::{MountError, cgroup2_mount, ensure_bpffs},
    object,
    tcx::{self, Tcx},
};
use crate::{
    agent::AgentName,
    policy::compile::{Compiled, NetEntry},
};

/// One program as the kernel holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// What it guards.
    pub section: String,
    /// Instructions the verifier walked through; its limit is a million.
    pub verified_instructions: u32,
    /// Instructions of the loaded program, eight bytes each.
    pub instructions: u32,
    /// Deepest stack of any of its functions, in bytes; the limit is 512.
    pub stack_bytes: u32,
    /// Mean run time on traffic over loopback, nanoseconds, the kernel's own measuring included (67 to 89 ns
    /// for an empty program); `None` where it did not run.
    pub ns_per_run: Option<f64>,
}

/// Why the programs could not be verified or measured.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The object or a program of it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Neither cgroup v2 nor bpffs.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The object cannot be parsed.
    #[error("cannot read the kernel object: {0}")]
    Parse(#[from] aya_obj::ParseError),
    /// The kernel's statistics, the throw-away cgroup or the process in it.
    #[error("cannot measure: {what}: {source}")]
    Measure {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn measuring(what: &'static str) -> impl FnOnce(io::Error) -> VerifyError {
    move |source| VerifyError::Measure { what, source }
}

/// Loads every program, lets a process of `exerciser` (this binary with the arguments that call
/// [`exercise()`]) make traffic under them in a throw-away cgroup, and reports on each program.
///
/// # Errors
/// When a program cannot be loaded or nothing can be measured. Nothing is left behind.
pub fn verify_all(exerciser: Command) -> Result<Vec<ProgramReport>, VerifyError> {
    let stack = stack::depths(object::bytes()?)?;
    let bench = Bench::new()?;
    let kernel = bench.run(exerciser)?;
    let hooks = HOOKS.iter().map(|hook| (hook.program, hook.door));
    let tails = TAILS.iter().map(|tail| (tail.program, tail.duty));
    let reports = hooks
        .chain(tails)
        .chain(GATES.iter().map(|gate| (gate.program, gate.duty)))
        .chain(tcx::PROGRAMS)
        .chain(kernel.unix().each().map(|(hook, _)| (hook.program, hook.door)))
        .map(|(program, door)| {
            let info = kernel.program_info(program)?;
            let runs = info.run_count();
            #[allow(clippy::cast_precision_loss, reason = "a mean for people")]
            let ns_per_run = (runs > 0).then(|| info.run_time().as_nanos() as f64 / runs as f64);
            Ok(ProgramReport {
                name: program.to_owned(),
                section: door.to_owned(),
                verified_instructions: info.verified_instruction_count().unwrap_or(0),
                instructions: info.size_translated().unwrap_or(0) / 8,
                stack_bytes: stack.get(program).copied().unwrap_or(0),
                ns_per_run,
            })
        })
        .collect();
    kernel.close()?;
    reports
}

/// A throw-away cgroup and pin directory, removed when dropped.
struct Bench {
    agent: AgentName,
    cgroup: PathBuf,
    pins: PathBuf,
}

impl Bench {
    fn new() -> Result<Self, VerifyError> {
        let name = format!("agentnet-verify-{}", std::process::id());
        let agent: AgentName =
            name.parse().map_err(|error| measuring("name the agent")(io::Error::other(error)))?;
        let bench = Self { agent, cgroup: cgroup2_mount()?.join(&name), pins: ensure_bpffs()?.join(&name) };
        fs::create_dir(&bench.cgroup).map_err(measuring("make a cgroup"))?;
        Ok(bench)
    }

    fn run(&self, mut exerciser: Command) -> Result<Kernel, VerifyError> {
        let stats = enable_stats(Stats::RunTime)
            .map_err(|error| VerifyError::Measure { what: "enable statistics", source: error.io_error })?;
        let mut kernel = Kernel::load(&self.pins)?;
        Tcx::load(&mut kernel)?;
        let cfg = AgentCfg {
            agent: 1,
            slot: 0,
            generation: 1,
            mode: MODE_ENFORCE,
            loopback: LOCAL_OWN,
            listen: LOCAL_OWN,
            flags: 0,
        };
        kernel.install(cfg.slot, &loopback_only(cfg))?;
        kernel.attach(&self.agent, &self.cgroup, cfg)?;
        enter_cgroup(&mut exerciser, &self.cgroup);
        let status = exerciser.stdin(Stdio::null()).status().map_err(measuring("make traffic"))?;
        if !status.success() {
            let source = io::Error::other(format!("the process that makes traffic ended with {status}"));
            return Err(VerifyError::Measure { what: "make traffic", source });
        }
        drop(stats);
        Ok(kernel)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Best effort: an error that is under way is the one to tell.
        let _ = super::clear_pins(&self.pins);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Has the child enter the cgroup before it becomes the command.
fn enter_cgroup(command: &mut Command, cgroup: &Path) {
    let procs = cgroup.join("cgroup.procs");
    // SAFETY: between fork and exec only a file is written; this process has a single thread then.
    unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
}

/// The policy under which the programs are measured: nothing but the agent's own listeners.
fn loopback_only(cfg: AgentCfg) -> Compiled {
    let root = NetEntry {
        addr: agentnet_common::addr::Addr::UNSPECIFIED,
        prefix: 0,
        rules: agentnet_common::abi::Ruleset::default(),
    };
    Compiled {
        name: "verify".to_owned(),
        mode: cfg.mode,
        loopback: cfg.loopback,
        listen: cfg.listen,
        flags: cfg.flags,
        nets: vec![root],
        names: Vec::new(),
        doors: crate::policy::unix::parse(exercise::DOORS).into_iter().collect(),
        resolution: crate::policy::resolvers::Resolution::default(),
        agents: Vec::new(),
        detect: crate::detect::action::Actions::default(),
        rules: Vec::new(),
    }
}
