//! Checked decoding of what the kernel wrote: every length, version and code is verified, nothing is cast.

use zerocopy::FromBytes as _;

use crate::{
    abi::{ABI_VERSION, AgentCounters, COMM_BYTES, Process, SUN_PATH},
    door::DoorName,
    event::{
        DoorEvent, FlowEnd, Header, Hook, Kind, Outcome, QUESTION_BYTES, QueryEvent, SampleHead,
        VerdictEvent, Way,
    },
    verdict::{Reason, RuleId},
};

/// A record of either ring.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// A verdict.
    Verdict(VerdictRecord),
    /// Payload.
    Sample(SampleRecord),
    /// The end of a flow.
    FlowEnd(FlowEnd),
}

/// Payload that was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRecord {
    /// What it is of.
    pub head: SampleHead,
    /// Which way it went.
    pub way: Way,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A [`VerdictEvent`] whose codes are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictRecord {
    /// The record as the kernel wrote it.
    pub event: VerdictEvent,
    /// Where it was decided.
    pub hook: Hook,
    /// What became of it.
    pub outcome: Outcome,
    /// The rule that allowed it, or the reason why none did.
    pub cause: Cause,
    /// The beginning of the DNS message that was refused; behind its end, anything.
    pub message: Option<Box<[u8; QUESTION_BYTES]>>,
    /// The Unix socket that was refused.
    pub door: Option<Box<DoorName>>,
    /// The server name of TLS that was refused, as it was said.
    pub server_name: Option<Box<[u8]>>,
}

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A rule.
    Rule(RuleId),
    /// The lack of one.
    Reason(Reason),
}

/// Why a record could not be read. Each is a defect in the build, not in the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than its header or its kind says.
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that should be.
        need: usize,
    },
    /// Written by another version.
    Abi(u16),
    /// A kind this build does not know.
    Kind(u16),
    /// A code this build does not know.
    Code {
        /// The field.
        field: &'static str,
        /// Its value.
        code: u8,
    },
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short { have, need } => write!(f, "kernel record of {have} bytes, {need} needed"),
            Self::Abi(abi) => write!(f, "kernel record of ABI version {abi}, this is version {ABI_VERSION}"),
            Self::Kind(kind) => write!(f, "kernel record of unknown kind {kind}"),
            Self::Code { field, code } => write!(f, "kernel record with unknown {field} {code}"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl Record {
    /// Reads one record.
    ///
    /// # Errors
    /// See [`DecodeError`]; the record is then to be counted as lost.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = |need| DecodeError::Short { have: bytes.len(), need };
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| short(size_of::<Header>()))?;
        if header.abi != ABI_VERSION {
            return Err(DecodeError::Abi(header.abi));
        }
        let kind = u8::try_from(header.kind).ok().and_then(Kind::from_code);
        match kind.ok_or(DecodeError::Kind(header.kind))? {
            Kind::Verdict => {
                let (event, _) =
                    VerdictEvent::read_from_prefix(bytes).map_err(|_| short(size_of::<VerdictEvent>()))?;
                VerdictRecord::check(event).map(Self::Verdict)
            }
            Kind::Query => {
                let (query, _) =
                    QueryEvent::read_from_prefix(bytes).map_err(|_| short(size_of::<QueryEvent>()))?;
                let record = VerdictRecord::check(query.verdict)?;
                Ok(Self::Verdict(VerdictRecord { message: Some(Box::new(query.message)), ..record }))
            }
            Kind::ServerName => {
                let (name, _) =
                    QueryEvent::read_from_prefix(bytes).map_err(|_| short(size_of::<QueryEvent>()))?;
                let record = VerdictRecord::check(name.verdict)?;
                let len = usize::try_from(name.verdict.detail).unwrap_or(usize::MAX).min(QUESTION_BYTES);
                let said = name.message.get(..len).filter(|said| !said.is_empty()).map(Into::into);
                Ok(Self::Verdict(VerdictRecord { server_name: said, ..record }))
            }
            Kind::Door => {
                let (door, _) =
                    DoorEvent::read_from_prefix(bytes).map_err(|_| short(size_of::<DoorEvent>()))?;
                let record = VerdictRecord::check(door.verdict)?;
                let name = DoorName { bytes: door.name, len: door.verdict.detail & 0xffff };
                Ok(Self::Verdict(VerdictRecord { door: Some(Box::new(name)), ..record }))
            }
            Kind::Sample => {
                let (head, rest) =
                    SampleHead::read_from_prefix(bytes).map_err(|_| short(size_of::<SampleHead>()))?;
                let len = usize::try_from(head.len).unwrap_or(usize::MAX);
                let taken =
                    rest.get(..len).ok_or_else(|| short(size_of::<SampleHead>().saturating_add(len)))?;
                let way =
                    Way::from_code(head.way).ok_or(DecodeError::Code { field: "way", code: head.way })?;
                Ok(Self::Sample(SampleRecord { head, way, bytes: taken.to_vec() }))
            }
            Kind::FlowEnd => {
                let (end, _) = FlowEnd::read_from_prefix(bytes).map_err(|_| short(size_of::<FlowEnd>()))?;
                Ok(Self::FlowEnd(end))
            }
        }
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        match self {
            Self::Verdict(record) => &record.event.header,
            Self::Sample(record) => &record.head.header,
            Self::FlowEnd(end) => &end.header,
        }
    }
}

impl VerdictRecord {
    /// Reads the codes of `event`.
    ///
    /// # Errors
    /// [`DecodeError::Code`] for one that this build does not know.
    pub fn check(event: VerdictEvent) -> Result<Self, DecodeError> {
        let outcome = Outcome::from_code(event.outcome)
            .ok_or(DecodeError::Code { field: "outcome", code: event.outcome })?;
        let cause = match outcome {
            Outcome::Allowed => Cause::Rule(RuleId(event.rule)),
            Outcome::Blocked | Outcome::Audited => Cause::Reason(
                Reason::from_code(event.reason)
                    .ok_or(DecodeError::Code { field: "reason", code: event.reason })?,
            ),
        };
        let hook =
            Hook::from_code(event.hook).ok_or(DecodeError::Code { field: "hook", code: event.hook })?;
        Ok(Self { event, hook, outcome, cause, message: None, door: None, server_name: None })
    }
}

impl DoorName {
    /// The name as policies write it: a path, or an abstract name behind an `@`. Bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        let len = usize::try_from(self.len).unwrap_or(SUN_PATH).min(SUN_PATH);
        let bytes = self.bytes.get(..len).unwrap_or_default();
        match bytes.strip_prefix(b"\0") {
            Some(name) => format!("@{}", String::from_utf8_lossy(name)),
            None => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

impl Process {
    /// The command name as text; bytes that are not UTF-8 are replaced.
    pub fn comm_text(&self) -> String {
        let end = self.comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_BYTES);
        String::from_utf8_lossy(self.comm.get(..end).unwrap_or_default()).into_owned()
    }
}

impl AgentCounters {
    /// The sum of two CPUs' counters; the window of the rate limit is each CPU's own and left out.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        let pairs = [
            (&mut self.alerts, other.alerts),
            (&mut self.samples, other.samples),
            (&mut self.alerts_lost, other.alerts_lost),
            (&mut self.samples_lost, other.samples_lost),
            (&mut self.suppressed, other.suppressed),
            (&mut self.repeats, other.repeats),
            (&mut self.unsampled, other.unsampled),
            (&mut self.allowed_packets, other.allowed_packets),
            (&mut self.allowed_bytes, other.allowed_bytes),
            (&mut self.refused_overflow, other.refused_overflow),
        ];
        for (sum, value) in pairs.into_iter().chain(self.denied.iter_mut().zip(other.denied)) {
            *sum = sum.saturating_add(value);
        }
        self
    }
}
