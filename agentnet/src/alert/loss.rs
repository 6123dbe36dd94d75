//! What could not be recorded: counted by cause, reported at once and then at most every ten seconds.

use std::collections::BTreeMap;

use agentnet_common::abi::AgentCounters;
use jiff::{SignedDuration, Timestamp};

use super::{
    model::{LossEvidence, Severity},
    text::plural,
};

/// Least time between two alerts of one cause.
pub const INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// Why something was not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The ring of refusals was full.
    AlertRing,
    /// The ring of everything else was full.
    SampleRing,
    /// The agent's budget of samples was used up.
    Unsampled,
    /// The agent was refused too often in a second.
    Suppressed,
    /// A record could not be read.
    Decode,
    /// Records are missing from the numbering and no other cause accounts for them.
    Sequence,
    /// Sockets with refused data that could not be remembered.
    Refused,
    /// Lines that could not be written to the log.
    Log,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::AlertRing,
        Self::SampleRing,
        Self::Unsampled,
        Self::Suppressed,
        Self::Decode,
        Self::Sequence,
        Self::Refused,
        Self::Log,
    ];

    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AlertRing => "alert_ring_full",
            Self::SampleRing => "sample_ring_full",
            Self::Unsampled => "sample_budget",
            Self::Suppressed => "suppressed",
            Self::Decode => "decode_error",
            Self::Sequence => "sequence_gap",
            Self::Refused => "refused_sockets_full",
            Self::Log => "log_write",
        }
    }

    /// The severity.
    pub const fn severity(self) -> Severity {
        match self {
            Self::SampleRing => Severity::Low,
            Self::Unsampled | Self::Suppressed => Severity::Medium,
            Self::AlertRing | Self::Decode | Self::Sequence | Self::Refused | Self::Log => Severity::High,
        }
    }

    /// The MITRE ATT&CK technique, where one fits: who floods a sensor blocks its indicators (T1562.006).
    pub const fn technique(self) -> Option<&'static str> {
        match self {
            Self::AlertRing | Self::SampleRing | Self::Unsampled | Self::Suppressed | Self::Refused => {
                Some("T1562.006")
            }
            Self::Decode | Self::Sequence | Self::Log => None,
        }
    }

    /// What was lost, in few words.
    pub const fn what(self) -> &'static str {
        match self {
            Self::AlertRing => "refusals that did not fit into the alert ring",
            Self::SampleRing => "allowed flows and samples that did not fit into the sample ring",
            Self::Unsampled => {
                "bytes of payload that were let through unseen, because the budget of samples was used up"
            }
            Self::Suppressed => "refusals counted but not recorded one by one",
            Self::Decode => "kernel records that could not be read",
            Self::Sequence => "kernel records that never arrived",
            Self::Refused => "sockets with refused data that could not be remembered",
            Self::Log => "lines that could not be written to the log",
        }
    }

    /// The sentence.
    fn sentence(self, agent: &str, lost: u64, error: Option<&str>) -> String {
        let error = error.unwrap_or("the cause is not known");
        let lost_of = |what| plural(lost, what);
        match self {
            Self::AlertRing => format!(
                "Enforced but not recorded: {} of agent {agent}, because the alert ring was full; \
                 look at what the agent floods the network with.",
                lost_of("refusal")
            ),
            Self::SampleRing => format!(
                "Not recorded: {} of agent {agent}, because the sample ring was full; \
                 verdicts do not depend on it.",
                lost_of("allowed flow or sample")
            ),
            Self::Unsampled => format!(
                "Let through but not looked at: {} of payload of agent {agent}, because it sends more than is \
                 sampled in a second; look at what it sends so much of.",
                lost_of("byte")
            ),
            Self::Suppressed => format!(
                "Enforced and counted but not recorded one by one: {} of agent {agent}, because it made too many a \
                 second; look at what the agent floods the network with.",
                lost_of("refusal")
            ),
            Self::Decode => format!(
                "Not readable: {} of agent {agent} ({error}), because the kernel programs are of another build; \
                 stop all agents and start them again with one version of agentnet.",
                lost_of("kernel record")
            ),
            Self::Sequence => format!(
                "Missing: {} of agent {agent}, and nothing accounts for the gap; \
                 look whether another process reads agentnet's rings.",
                lost_of("kernel record")
            ),
            Self::Refused => format!(
                "Not remembered: {} of agent {agent} with refused data, to be cut off only with their processes; \
                 stop the agent before its policy is changed.",
                lost_of("socket")
            ),
            Self::Log if lost == 0 => {
                format!("The log of agent {agent} is written but not in good order: {error}; mend it.")
            }
            Self::Log => format!(
                "Not written to the log: {} of agent {agent} ({error}); \
                 enforcement goes on, make room or mend the file.",
                lost_of("line")
            ),
        }
    }
}

/// How much was lost to one cause.
#[derive(Clone, Debug, Default)]
struct Meter {
    total: u64,
    reported: u64,
    last: Option<Timestamp>,
    error: Option<String>,
}

impl Meter {
    /// What was lost since the last report.
    fn report(&mut self, cause: Cause, agent: &str, now: Timestamp) -> Loss {
        let lost = self.total.saturating_sub(self.reported);
        self.reported = self.total;
        self.last = Some(now);
        Loss {
            cause,
            sentence: cause.sentence(agent, lost, self.error.as_deref()),
            evidence: LossEvidence {
                cause: cause.label().into(),
                lost,
                total: self.total,
                error: self.error.clone(),
            },
        }
    }
}

/// A loss to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub cause: Cause,
    /// The sentence.
    pub sentence: String,
    /// The numbers.
    pub evidence: LossEvidence,
}

/// The losses of one agent.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    meters: BTreeMap<Cause, Meter>,
}

impl Losses {
    /// What `counters` hold is an earlier engine's: it has been reported.
    pub fn baseline(&mut self, counters: &AgentCounters) {
        self.counters(counters);
        for meter in self.meters.values_mut() {
            meter.reported = meter.total;
        }
    }

    /// Takes the kernel's counters, summed over all CPUs.
    pub fn counters(&mut self, counters: &AgentCounters) {
        for (cause, total) in [
            (Cause::AlertRing, counters.alerts_lost),
            (Cause::SampleRing, counters.samples_lost),
            (Cause::Unsampled, counters.unsampled),
            (Cause::Suppressed, counters.suppressed),
            (Cause::Refused, counters.refused_overflow),
        ] {
            // CPUs are read one after the other: a sum may be behind one read before.
            let meter = self.meter(cause);
            meter.total = meter.total.max(total);
        }
    }

    /// Counts `lost` more for `cause`, the latest of them because of `error`.
    pub fn add(&mut self, cause: Cause, lost: u64, error: String) {
        let meter = self.meter(cause);
        meter.total = meter.total.saturating_add(lost);
        meter.error = Some(error);
    }

    /// Takes how many numbers are missing from the sequences. Lost and unreadable records account for
    /// theirs; what remains is a loss of its own. Call it after [`Losses::counters`], never before: a
    /// record is counted as lost before its gap can be seen.
    pub fn missing(&mut self, missing: u64) {
        let explained = [Cause::AlertRing, Cause::SampleRing, Cause::Decode]
            .into_iter()
            .fold(0_u64, |sum, cause| sum.saturating_add(self.meter(cause).total));
        let meter = self.meter(Cause::Sequence);
        meter.total = meter.total.max(missing.saturating_sub(explained));
    }

    /// Trouble with the log, to be told at once: `lines` more could not be written because of `error`, or
    /// none were lost and it only cannot be rotated.
    pub fn log_trouble(&mut self, agent: &str, lines: u64, error: String, now: Timestamp) -> Loss {
        self.add(Cause::Log, lines, error);
        let meter = self.meter(Cause::Log);
        meter.report(Cause::Log, agent, now)
    }

    /// The total of a cause.
    pub fn total(&self, cause: Cause) -> u64 {
        self.meters.get(&cause).map_or(0, |meter| meter.total)
    }

    /// What is to be reported about `agent` now; `all` ends the wait between alerts of one cause.
    pub fn due(&mut self, agent: &str, now: Timestamp, all: bool) -> Vec<Loss> {
        let mut due = Vec::new();
        for cause in Cause::ALL {
            let meter = self.meter(cause);
            let lost = meter.total.saturating_sub(meter.reported);
            // A clock that was set back does not silence a cause.
            let waited = meter.last.is_none_or(|last| now < last || now.duration_since(last) >= INTERVAL);
            if lost == 0 || !(waited || all) {
                continue;
            }
            due.push(meter.report(cause, agent, now));
        }
        due
    }

    fn meter(&mut self, cause: Cause) -> &mut Meter {
        self.meters.entry(cause).or_default()
    }
}
