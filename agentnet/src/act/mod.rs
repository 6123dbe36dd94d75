//! What people do by hand: block, allow, quarantine. Each act is kept with who did it, why, and until when.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use agentnet_common::addr::{Addr, Endpoint, protocol};
use jiff::{SignedDuration, Timestamp, TimestampRound, Unit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{
    agent::AgentName,
    alert::text::{clean, one_line},
    policy::net::Net,
};

mod in_force;
mod order;
mod target;

pub use in_force::{InForce, grants, nodes};
pub use order::{Acted, Deed, Order};
pub use target::{Blocked, Host, NetError, PlaceError, Target, blocked, net};

/// Longest reason, in characters.
pub const MAX_REASON: usize = 300;

/// Something that was done by hand and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Its number, unique among those of its engine.
    pub id: u32,
    /// What was done.
    #[serde(flatten)]
    pub what: What,
    /// To which agent; `None` for every one.
    pub agent: Option<AgentName>,
    /// Who did it; `None` if that is not known any more, or nobody did.
    pub by: Option<By>,
    /// The kind of finding for which the engine did it by itself, as alerts have it; `None` if somebody did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<String>,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// When.
    pub since: Timestamp,
    /// When it ends; `None` if only a person ends it.
    pub until: Option<Timestamp>,
    /// The same on the kernel's clock, nanoseconds of `CLOCK_BOOTTIME`; 0 for `None`.
    pub expiry: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum What {
    /// Nothing may be sent to these addresses, nor come from them.
    Block {
        /// The addresses.
        net: Net,
    },
    /// Neither this name nor any below it may be asked for, and addresses that they have opened are closed.
    BlockName {
        /// The name, in lower case.
        name: String,
    },
    /// This may be sent although the policy does not allow it.
    Allow(Allowed),
    /// Nothing may be sent at all.
    Quarantine,
}

/// What may be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// As it was written, a name or an address.
    pub target: String,
    /// The addresses; those that the name had then.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Transport,
    /// Whether it is on this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The IANA number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Who did something, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// User id.
    pub uid: u32,
    /// Name of the user, if there is one.
    pub user: Option<String>,
    /// The user who had logged in, if that was another one: who used sudo, for example (`/proc/PID/loginuid`).
    pub login: Option<String>,
    /// Process id.
    pub pid: i32,
}

impl Act {
    /// Whether it is over at this time, nanoseconds of `CLOCK_BOOTTIME`.
    pub const fn is_over(&self, now: u64) -> bool {
        self.expiry != 0 && self.expiry <= now
    }

    /// Whether it is about `agent`.
    pub fn concerns(&self, agent: &AgentName) -> bool {
        self.agent.as_ref().is_none_or(|of| of == agent)
    }

    /// Whether it only takes something away from the agent.
    pub const fn closes(&self) -> bool {
        !matches!(self.what, What::Allow(_))
    }

    /// Whether it holds until an engine ends it, though its time may be over: the kernel keeps no time of it.
    pub const fn is_ended_by_engine(&self) -> bool {
        matches!(self.what, What::Quarantine | What::BlockName { .. })
    }

    /// The addresses it blocks.
    pub const fn blocks(&self) -> Option<Net> {
        match self.what {
            What::Block { net } => Some(net),
            What::BlockName { .. } | What::Allow(_) | What::Quarantine => None,
        }
    }

    /// The name it blocks, with all below it.
    pub fn blocks_name(&self) -> Option<&str> {
        match &self.what {
            What::BlockName { name } => Some(name),
            What::Block { .. } | What::Allow(_) | What::Quarantine => None,
        }
    }

    /// What it allows.
    pub const fn allows(&self) -> Option<&Allowed> {
        match &self.what {
            What::Allow(allowed) => Some(allowed),
            What::Block { .. } | What::BlockName { .. } | What::Quarantine => None,
        }
    }

    /// Who did it.
    pub fn who(&self) -> String {
        match (&self.by, &self.detection) {
            (Some(by), _) => by.to_string(),
            (None, Some(kind)) => format!("detection ({})", clean(kind, MAX_REASON)),
            (None, None) => "somebody who is not known any more".to_owned(),
        }
    }

    /// Who, until when and why, as the end of a sentence.
    pub fn circumstances(&self) -> String {
        format!("by {}{}", self.who(), self.terms())
    }

    /// Until when and why, as the end of a sentence.
    pub fn terms(&self) -> String {
        let until = self.until.map(|until| format!(" until {}", second(until)));
        let reason = self.reason.as_ref().map(|reason| format!(" ({})", clean(reason, MAX_REASON)));
        until.into_iter().chain(reason).collect()
    }
}

impl fmt::Display for Act {
    /// A sentence without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.agent.is_none() {
            write!(f, " for every agent")?;
        }
        write!(f, " {}", self.circumstances())
    }
}

impl fmt::Display for What {
    /// What holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { net } => write!(f, "{} is blocked", short(*net)),
            Self::BlockName { name } => {
                write!(f, "{} is blocked with every name below it", clean(name, MAX_REASON))
            }
            Self::Allow(allowed) => write!(f, "{allowed} is allowed"),
            Self::Quarantine => write!(f, "the agent is in quarantine"),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, addresses, port, protocol, .. } = self;
        match target.parse::<IpAddr>() {
            Ok(ip) => write!(f, "{protocol} {}", SocketAddr::new(ip, *port)),
            Err(_) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "{protocol} {}:{port} ({})", clean(target, MAX_REASON), addresses.join(", "))
            }
        }
    }
}

impl Allowed {
    /// The endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let (port, protocol) = (self.port, self.protocol.number());
        self.addresses.iter().map(move |ip| Endpoint::new(Addr::from(*ip), port, protocol))
    }

    /// Whether it is what is called that.
    pub fn is_called(&self, target: &str, port: u16, protocol: Transport) -> bool {
        let same = match (self.target.parse::<IpAddr>(), target.parse::<IpAddr>()) {
            (Ok(own), Ok(other)) => own.to_canonical() == other.to_canonical(),
            _ => self.target.eq_ignore_ascii_case(target),
        };
        same && self.port == port && self.protocol == protocol
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &str| clean(name, MAX_REASON);
        if let Some(login) = &self.login {
            write!(f, "{} as ", name(login))?;
        }
        match &self.user {
            Some(user) => write!(f, "{} (uid {}, pid {})", name(user), self.uid, self.pid),
            None => write!(f, "uid {} (pid {})", self.uid, self.pid),
        }
    }
}

/// A network, or an address alone as that.
pub fn short(net: Net) -> String {
    if net.prefix() == 128 { IpAddr::from(net.addr()).to_string() } else { net.to_string() }
}

/// A time to the second, in UTC.
pub(crate) fn second(time: Timestamp) -> String {
    let rounded = time.round(TimestampRound::new().smallest(Unit::Second)).unwrap_or(time);
    rounded.to_string()
}

/// The kernel's clock for what ends: nanoseconds since it was started, sleep included.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// When something ends that begins now and holds for so long: for people and for the kernel.
pub fn end(length: Option<Duration>) -> (Option<Timestamp>, u64) {
    let Some(length) = length else { return (None, 0) };
    let nanoseconds = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    let wall =
        SignedDuration::try_from(length).ok().and_then(|length| Timestamp::now().checked_add(length).ok());
    // Never what means no end.
    (Some(wall.unwrap_or(Timestamp::MAX)), now().saturating_add(nanoseconds).max(1))
}

/// A reason as it is kept: one line.
///
/// # Errors
/// If it is too long.
pub fn reason(text: &str) -> Result<Option<String>, String> {
    let text = one_line(text);
    match text.chars().count() {
        0 => Ok(None),
        1..=MAX_REASON => Ok(Some(text)),
        more => Err(format!("the reason has {more} characters; say it in {MAX_REASON}")),
    }
}

#[cfg(test)]
mod tests;
