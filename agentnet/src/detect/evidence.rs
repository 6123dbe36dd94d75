//! The numbers behind findings, as alerts have them. Bytes are bytes, times are seconds.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

type Label = Cow<'static, str>;

/// A number with three digits behind the point, which say all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thousandths(u32);

impl Thousandths {
    /// `number`, or 0 if it is negative.
    pub fn of(number: f32) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        Self((number * 1000.0).round().clamp(0.0, 1e9) as u32)
    }

    /// Back again.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl Serialize for Thousandths {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.get())
    }
}

impl<'de> Deserialize<'de> for Thousandths {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "three digits")]
        f64::deserialize(deserializer).map(|number| Self::of(number as f32))
    }
}

/// What a detector measured. The tag is the detector's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "detector", rename_all = "snake_case")]
pub enum Evidence {
    /// See [`DnsBudget`].
    DnsBudget(DnsBudget),
    /// See [`DnsQuery`].
    DnsQuery(DnsQuery),
    /// See [`DnsAnswer`].
    DnsAnswer(DnsAnswer),
    /// See [`DnsAnomaly`].
    DnsAnomaly(DnsAnomaly),
    /// See [`Destination`].
    #[serde(rename = "destination_class")]
    Destination(Destination),
    /// See [`Dga`].
    Dga(Dga),
    /// See [`Url`].
    #[serde(rename = "url")]
    Url(Url),
    /// See [`Secret`].
    Secret(Secret),
    /// See [`Icmp`].
    #[serde(rename = "icmp_tunnel")]
    Icmp(Icmp),
    /// See [`Said`].
    Said(Said),
}

/// A name that was said to an address which another one has opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The name; nothing where none was said, or none that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// The rule that has opened the address, with its place.
    pub opened_by: String,
}

/// New information in queries to one domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsBudget {
    /// The registrable domain.
    pub domain: String,
    /// The query that went over the limit.
    pub query: String,
    /// New information in the window.
    pub information_bytes: u32,
    /// The limit it went over.
    pub limit_bytes: u32,
    /// The window.
    pub window_seconds: u32,
    /// Different names since the domain was first asked for.
    pub names: u32,
    /// Characters of them that were new.
    pub characters: u32,
    /// Whether the domain is among the most visited.
    pub popular: bool,
    /// Information that had already left for the domain before this query.
    pub bytes_before_block: u32,
}

/// One query that says too much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsQuery {
    /// The registrable domain.
    pub domain: String,
    /// The query, what is secret in it left out.
    pub query: String,
    /// Information in its labels.
    pub information_bytes: u32,
    /// What they decode to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Decoded>,
    /// Whether the domain is among the most visited.
    pub popular: bool,
    /// Information that had already left for the domain before this query.
    pub bytes_before_block: u32,
}

/// Something that was encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoded {
    /// How: `hex`, `base32`, `base64`, ...; outermost first.
    pub encoding: String,
    /// What it is: `text`, `gzip`, ..., or the name of a rule for secrets.
    pub content: Label,
    /// Bytes of it.
    pub bytes: usize,
    /// Its first four characters.
    pub sample: String,
}

/// Answers that carry data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    /// The registrable domain.
    pub domain: String,
    /// The query.
    pub query: String,
    /// The type asked for, by name or number.
    pub record_type: Label,
    /// Data in answers that follows no known grammar, in the window.
    pub answer_bytes: u32,
    /// Queries of types that carry data, in the window.
    pub queries: u32,
    /// The window.
    pub window_seconds: u32,
    /// Whether the domain is among the most visited.
    pub popular: bool,
}

/// A message that is not as messages are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnomaly {
    /// The query, as far as it could be read.
    pub query: String,
    /// What is wrong.
    pub faults: Vec<Label>,
    /// Bytes that neither its name nor options explain.
    pub unexplained_bytes: u32,
    /// Bytes of the message, 0 if not known.
    pub message_bytes: u32,
}

/// A destination of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The name.
    pub name: String,
    /// The class.
    pub class: Label,
    /// The name that is listed.
    pub listed: String,
}

/// Names that do not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dga {
    /// The last one.
    pub query: String,
    /// Different domains in the window.
    pub domains: u32,
    /// The window.
    pub window_seconds: u32,
    /// Mean information of a character, in bits.
    pub bits_per_character: Thousandths,
}

/// Data in requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// The host.
    pub host: String,
    /// Where it was: `path`, `query`, `body`.
    pub part: Label,
    /// The first characters of what decided.
    pub sample: String,
    /// What it decodes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Decoded>,
    /// New information in requests to the registrable domain within 10 minutes.
    pub information_bytes: u32,
    /// The limit of that.
    pub limit_bytes: u32,
    /// Pieces of one length within 2 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<u32>,
    /// Information that had already left for the domain before this request.
    pub bytes_before_block: u32,
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The rule, or the name of the host's secret.
    pub rule: String,
    /// Whether it is one of this host's.
    pub own: bool,
    /// How it was encoded, outermost first.
    pub encoding: String,
    /// Where it was.
    pub place: Label,
    /// Its first four characters.
    pub sample: String,
    /// Its length.
    pub bytes: usize,
    /// Tells it from others; it cannot be turned back.
    pub fingerprint: String,
    /// Bytes that had left this way when it was found, those it was found in included.
    #[serde(default)]
    pub bytes_before_block: u64,
}

/// ICMP that is no ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// What is unusual.
    pub signs: Vec<Label>,
    /// Messages in the window, both ways.
    pub messages: u32,
    /// Their payload.
    pub payload_bytes: u64,
    /// The window.
    pub window_seconds: u32,
}
