//! The keys of a policy file: one table, which the parser walks and the published JSON Schema is made of.

use std::sync::LazyLock;

use agentnet_common::{
    abi::{
        LOCAL_ANY, LOCAL_DENY, LOCAL_OWN, MODE_AUDIT, MODE_ENFORCE, SPEAKS_ECH, SPEAKS_HTTP, SPEAKS_TLS,
        SPEAKS_UNNAMED,
    },
    addr::protocols,
};
use serde_json::{Map, Value, json};

use super::{presets, resolvers};
use crate::detect::{
    action::Setting,
    registry::{DefaultAction, REGISTRY},
};

/// A table of the file.
#[derive(Debug)]
pub struct Table {
    /// Its name in messages.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// Keys of which exactly one has to be there.
    pub one_of: &'static [&'static str],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Whether it has to be there.
    pub required: bool,
    /// The value it has when it is not there.
    pub default: Option<&'static str>,
    /// What it says.
    pub doc: &'static str,
}

/// What a value is.
#[derive(Debug)]
pub enum Kind {
    /// The version of the format.
    Version,
    /// The name of a policy.
    Name,
    /// A network in CIDR notation.
    Cidr,
    /// A domain name, perhaps with a wildcard.
    Domain,
    /// A pattern for names of units, paths of cgroups or containers.
    Pattern,
    /// A list of ports and ranges of ports.
    Ports,
    /// A list of names of Unix sockets.
    UnixNames,
    /// A list of names of presets.
    Presets,
    /// A list of addresses of resolvers, or [`resolvers::SYSTEM`].
    Resolvers,
    /// A list of names that resolvers try behind others, or [`resolvers::SYSTEM`]; may be empty.
    Suffixes,
    /// A list of texts that its reader makes sense of; may be empty.
    Texts,
    /// Text that its reader makes sense of, with an example.
    Text(&'static str),
    /// One of a few words.
    Choice(&'static [Choice]),
    /// A list of some of a few words.
    Choices(&'static [Choice]),
    /// A table.
    Table(&'static Table),
    /// Any number of tables.
    Tables(&'static Table),
    /// The table that `detect` makes of the registry of detectors.
    Detect,
    /// Part of the format, but not enforced by this version: an error, because a policy that promises
    /// what does not happen is worse than none.
    NotEnforced,
}

/// A word that a value may be.
#[derive(Debug)]
pub struct Choice {
    /// The word.
    pub word: &'static str,
    /// What the kernel is told.
    pub code: u8,
}

/// The only version of the format.
pub const VERSION: u8 = 1;

/// Longest name of a policy, in characters.
pub const NAME_LENGTH: usize = 64;

pub(crate) const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: false, default: None, doc }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { required: true, ..key(name, kind, doc) }
}

pub(crate) const fn default(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { default: Some(default), ..key(name, kind, doc) }
}

const fn not_enforced(name: &'static str) -> Key {
    key(name, Kind::NotEnforced, "Not enforced by this version.")
}

const fn choice(word: &'static str, code: u8) -> Choice {
    Choice { word, code }
}

/// `mode`.
const MODES: &[Choice] = &[choice("enforce", MODE_ENFORCE), choice("audit", MODE_AUDIT)];

/// `protocols`.
pub const PROTOCOLS: &[Choice] =
    &[choice("tcp", protocols::TCP), choice("udp", protocols::UDP), choice("icmp", protocols::ICMP)];

/// `[local] loopback`.
const LOOPBACK: &[Choice] = &[choice("own", LOCAL_OWN), choice("deny", LOCAL_DENY), choice("any", LOCAL_ANY)];

/// `[local] listen`: to the kernel, "loopback" is "this host", which is `LOCAL_OWN`.
const LISTEN: &[Choice] =
    &[choice("deny", LOCAL_DENY), choice("loopback", LOCAL_OWN), choice("any", LOCAL_ANY)];

/// `[local] unix`.
const UNIX: &[Choice] = &[choice("deny", LOCAL_DENY), choice("any", LOCAL_ANY)];

/// `app`.
pub const APP: &[Choice] = &[choice("tls", SPEAKS_TLS), choice("http", SPEAKS_HTTP), choice("any", 0)];

/// `sni`.
pub const SNI: &[Choice] = &[choice("required", 0), choice("off", SPEAKS_UNNAMED)];

/// `ech`.
pub const ECH: &[Choice] = &[choice("deny", 0), choice("allow", SPEAKS_ECH)];

/// `quic`.
pub const QUIC: &[Choice] = &[choice("deny", 0), choice("allow", QUIC_ALLOW)];

/// `quic = "allow"`. The kernel is told by the ports of UDP that it opens.
pub const QUIC_ALLOW: u8 = 1;

/// The code of a word that is in `choices`.
pub(super) fn code(choices: &[Choice], word: &str) -> u8 {
    choices.iter().find(|choice| choice.word == word).map_or(0, |choice| choice.code)
}

/// The word of a code.
pub(super) fn word(choices: &'static [Choice], code: u8) -> Option<&'static str> {
    choices.iter().find(|choice| choice.code == code).map(|choice| choice.word)
}

/// Whether a key of [`TLS`] is as it is when nothing is said.
pub(super) fn is_default(key: &str, word: &str) -> bool {
    TLS.key(key).is_some_and(|key| key.default == Some(word))
}

/// The file itself.
pub const POLICY: Table = Table {
    name: "a policy",
    doc: "A policy of agentnet: what an agent may send to the network. What no rule allows is denied.",
    one_of: &[],
    keys: &[
        required("version", Kind::Version, "Version of this format: 1."),
        required("name", Kind::Name, "Name of the policy, as alerts give it."),
        key("extends", Kind::Name, EXTENDS_DOC),
        default(
            "mode",
            Kind::Choice(MODES),
            "enforce",
            "\"enforce\" refuses what is not allowed, \"audit\" only reports what would be refused.",
        ),
        key("agents", Kind::Tables(&AGENTS), AGENTS.doc),
        key("egress", Kind::Table(&EGRESS), EGRESS.doc),
        key("local", Kind::Table(&LOCAL), LOCAL.doc),
        key("dns", Kind::Table(&DNS), DNS.doc),
        key("tls", Kind::Table(&TLS), TLS.doc),
        not_enforced("budget"),
        key("detect", Kind::Detect, DETECT_DOC),
    ],
};

/// `[[agents]]`.
pub const AGENTS: Table = Table {
    name: "[[agents]]",
    doc: "Which agents the daemon puts under this policy by itself, besides those of `run` and `attach`.",
    one_of: &["unit", "cgroup", "container"],
    keys: &[
        key(
            "unit",
            Kind::Pattern,
            "systemd units by name, such as \"claude@*.service\"; `*` is any characters, `?` one.",
        ),
        key(
            "cgroup",
            Kind::Pattern,
            "Cgroups by their path below the top of the hierarchy: \"/agents.slice\" is that one with all \
             below it, and governed before anything runs there; \"/agents.slice/*\" is each one in it.",
        ),
        key(
            "container",
            Kind::Pattern,
            "Containers of podman and docker by name or id, such as \"dev-*\", or by a label: \
             \"label:agentnet=coding\".",
        ),
    ],
};

/// `[egress]`.
pub const EGRESS: Table = Table {
    name: "[egress]",
    doc: "What may be sent, and to whom.",
    one_of: &[],
    keys: &[
        key("allow", Kind::Tables(&ALLOW), ALLOW.doc),
        key("deny", Kind::Tables(&DENY), DENY.doc),
        key(
            "presets",
            Kind::Presets,
            "Rules that come with agentnet; `agentnet policy presets` lists them, and shows one with the reason for \
             each of its rules.",
        ),
    ],
};

const CIDR_DOC: &str = "A network in CIDR notation, such as \"10.20.0.0/16\" or \"2001:db8::1/128\".";
const DOMAIN_DOC: &str = "A domain name. \"*.example.com\" is every name below example.com at any depth, and \
                          not example.com itself.";

/// `[[egress.allow]]`.
pub const ALLOW: Table = Table {
    name: "[[egress.allow]]",
    doc: "What is allowed.",
    one_of: &["cidr", "domain"],
    keys: &[
        key("cidr", Kind::Cidr, CIDR_DOC),
        key("domain", Kind::Domain, DOMAIN_DOC),
        key(
            "ports",
            Kind::Ports,
            "Ports, such as 5432 or \"8000-8099\". Required with `cidr`, unless `protocols` is [\"icmp\"]; \
             [443] by default with `domain`.",
        ),
        default("protocols", Kind::Choices(PROTOCOLS), "tcp", "Protocols."),
        key("app", Kind::Choice(APP), APP_DOC),
        key("sni", Kind::Choice(SNI), SNI_DOC),
        key("ech", Kind::Choice(ECH), ECH_DOC),
        key("quic", Kind::Choice(QUIC), QUIC_DOC),
        not_enforced("proxy"),
    ],
};

/// `[[egress.deny]]`.
pub const DENY: Table = Table {
    name: "[[egress.deny]]",
    doc: "What is denied, whatever is allowed.",
    one_of: &["cidr", "domain"],
    keys: &[
        key("cidr", Kind::Cidr, CIDR_DOC),
        key("domain", Kind::Domain, DOMAIN_DOC),
        key("ports", Kind::Ports, "Ports, such as 22 or \"6000-6063\"; all by default."),
        key(
            "protocols",
            Kind::Choices(PROTOCOLS),
            "Protocols. By default all, or with `ports` those that have ports: tcp and udp.",
        ),
    ],
};

const APP_DOC: &str = "With `domain`: what TCP connections have to speak. \"tls\": TLS with a server name that a rule \
                       allows; \"http\": HTTP/1 to such a host; \"any\": whatever, as only the address is known to \
                       be the name's. By default \"tls\" on ports 443, 853 and 8443, \"http\" on 80 and 8080, else \"any\".";
const SNI_DOC: &str =
    "\"off\" lets TLS pass that names no server; a name that is there is held to the rules.";
const ECH_DOC: &str =
    "\"allow\" lets TLS pass whose server name is encrypted: only the outer one is held to the rules.";
const QUIC_DOC: &str = "\"allow\" opens UDP on the ports on which TLS has to be spoken.";

/// `[tls]`.
pub const TLS: Table = Table {
    name: "[tls]",
    doc: "What is asked of TLS by all rules that say nothing else of it.",
    one_of: &[],
    keys: &[
        default("sni", Kind::Choice(SNI), "required", SNI_DOC),
        default("ech", Kind::Choice(ECH), "deny", ECH_DOC),
        default("quic", Kind::Choice(QUIC), "deny", QUIC_DOC),
        not_enforced("inspect"),
    ],
};

const EXTENDS_DOC: &str = "A policy of the policy directory, or a built-in one, to which this one adds: rules add \
                           up, deny wins, and what both say of anything else is as this one says.";

/// `[dns]`.
pub const DNS: Table = Table {
    name: "[dns]",
    doc: "Who is asked for names.",
    one_of: &[],
    keys: &[
        default(
            "resolvers",
            Kind::Resolvers,
            resolvers::SYSTEM,
            "Addresses of resolvers, without port; \"system\" stands for those in the host's /etc/resolv.conf.",
        ),
        default(
            "search",
            Kind::Suffixes,
            resolvers::SYSTEM,
            "Domains that resolvers try behind a name: the rule's name with one of them behind it may be asked for, \
             and opens nothing. \"system\" stands for the search list in the host's /etc/resolv.conf, [] for none.",
        ),
    ],
};

/// `[detect.KIND]`.
pub const DETECTOR: Table = Table {
    name: "[detect.KIND]",
    doc: "What is done about findings of a kind.",
    one_of: &[],
    keys: &[required(
        "action",
        Kind::Choice(DETECT_ACTIONS),
        "\"off\": nothing is told. \"alert\": everything is told and nothing blocked. \"block\": what is worth \
         an alert is blocked. \"quarantine\": the same, and the agent may send nothing any more.",
    )],
};

/// `[detect.KIND] action`, by [`setting`].
const DETECT_ACTIONS: &[Choice] =
    &[choice("off", 0), choice("alert", 1), choice("block", 2), choice("quarantine", 3)];

/// The setting behind the code of a word.
pub(super) const fn setting(code: u8) -> Setting {
    match code {
        0 => Setting::Off,
        1 => Setting::Alert,
        2 => Setting::Block,
        _ => Setting::Quarantine,
    }
}

/// `[local]`.
pub const LOCAL: Table = Table {
    name: "[local]",
    doc: "Connections that do not leave this host.",
    one_of: &[],
    keys: &[
        default(
            "loopback",
            Kind::Choice(LOOPBACK),
            "own",
            "Which listeners on this host the agent may connect to: \"own\" only those of the same agent, \
             \"deny\" none, \"any\" all. A rule for an address of this host opens further ones.",
        ),
        default(
            "listen",
            Kind::Choice(LISTEN),
            "loopback",
            "Who may connect into the agent: \"deny\" nobody, \"loopback\" this host, \"any\" everybody.",
        ),
        default(
            "unix",
            Kind::Choice(UNIX),
            "deny",
            "Which Unix sockets the agent may connect and send to by name: \"deny\" only those of `unix_allow`, \
             \"any\" all.",
        ),
        key(
            "unix_allow",
            Kind::UnixNames,
            "Unix sockets that the agent may talk to: paths such as \"/run/postgresql/.s.PGSQL.5432\", \
             directories with a slash at the end, abstract names behind an @.",
        ),
    ],
};

impl Table {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    fn schema(&self) -> Value {
        let enforced = || self.keys.iter().filter(|key| !matches!(key.kind, Kind::NotEnforced));
        let properties: Map<_, _> = enforced().map(|key| (key.name.to_owned(), key.schema())).collect();
        let required: Vec<_> = enforced().filter(|key| key.required).map(|key| key.name).collect();
        let mut schema = json!({
            "type": "object",
            "description": self.doc,
            "additionalProperties": false,
            "properties": properties,
        });
        if !required.is_empty() {
            insert(&mut schema, "required", json!(required));
        }
        if !self.one_of.is_empty() {
            let one_of: Vec<_> = self.one_of.iter().map(|key| json!({ "required": [key] })).collect();
            insert(&mut schema, "oneOf", json!(one_of));
        }
        schema
    }
}

impl Key {
    fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        insert(&mut schema, "description", json!(self.doc));
        if let Some(default) = self.default {
            let list = matches!(self.kind, Kind::Choices(_) | Kind::Resolvers | Kind::Suffixes);
            insert(&mut schema, "default", if list { json!([default]) } else { json!(default) });
        }
        schema
    }
}

impl Kind {
    fn schema(&self) -> Value {
        match self {
            Self::Version => json!({ "const": VERSION }),
            Self::Name => json!({
                "type": "string",
                "pattern": "^[a-z0-9][a-z0-9._-]*$",
                "maxLength": NAME_LENGTH,
            }),
            Self::Cidr => json!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" }),
            Self::Domain => json!({ "type": "string", "minLength": 1, "maxLength": 253 }),
            Self::Pattern => json!({ "type": "string", "minLength": 1 }),
            Self::Ports => json!({
                "type": "array",
                "minItems": 1,
                "items": {
                    "anyOf": [
                        { "type": "integer", "minimum": 1, "maximum": u16::MAX },
                        { "type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$" },
                    ],
                },
            }),
            Self::UnixNames => json!({
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": { "type": "string", "pattern": "^[/@].+$", "maxLength": 107 },
            }),
            Self::Presets => json!({
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": { "enum": presets::names().collect::<Vec<_>>() },
            }),
            Self::Resolvers => json!({
                "type": "array",
                "minItems": 1,
                "maxItems": resolvers::MOST,
                "items": { "type": "string", "pattern": "^(system|[0-9A-Fa-f:.]+)$" },
            }),
            Self::Suffixes => json!({
                "type": "array",
                "maxItems": resolvers::MOST,
                "items": { "type": "string", "minLength": 1, "maxLength": 253 },
            }),
            Self::Texts => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
            Self::Text(example) => json!({ "type": "string", "examples": [example] }),
            Self::Choice(choices) => json!({ "enum": words(choices) }),
            Self::Choices(choices) => json!({
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": { "enum": words(choices) },
            }),
            Self::Table(table) => table.schema(),
            Self::Tables(table) => json!({ "type": "array", "items": table.schema() }),
            Self::Detect => detect().schema(),
            // Left out of the schema: an editor then marks it, as `policy check` does.
            Self::NotEnforced => json!(false),
        }
    }
}

/// `[detect]`: a key for each row of the registry of detectors.
pub(crate) fn detect() -> &'static Table {
    static DETECT: LazyLock<Table> = LazyLock::new(|| {
        let keys: Vec<Key> = REGISTRY
            .iter()
            .map(|row| {
                let by_default = match row.default {
                    DefaultAction::Graded => {
                        format!("By default {} are blocked, and the rest is told.", row.blocked)
                    }
                    DefaultAction::Alert => "By default it is told, and nothing blocked.".to_owned(),
                };
                // Once for the life of the process, as the tables that are constants.
                let doc: &'static str = format!("{} {by_default}", row.doc).leak();
                key(row.kind.label(), Kind::Table(&DETECTOR), doc)
            })
            .collect();
        Table { name: "[detect]", doc: DETECT_DOC, one_of: &[], keys: keys.leak() }
    });
    &DETECT
}

const DETECT_DOC: &str = "What is done about covert channels and leaks that detectors find.";

fn words(choices: &[Choice]) -> Vec<&'static str> {
    choices.iter().map(|choice| choice.word).collect()
}

fn insert(schema: &mut Value, key: &str, value: Value) {
    if let Value::Object(object) = schema {
        object.insert(key.to_owned(), value);
    }
}

/// The JSON Schema (draft 2020-12) of a policy file, indented, with a line end.
pub fn json_schema() -> String {
    let mut schema = POLICY.schema();
    insert(&mut schema, "$schema", json!("https://json-schema.org/draft/2020-12/schema"));
    insert(&mut schema, "title", json!("agentnet policy"));
    // The same bytes whether or not some crate of the build has serde_json keep the order of insertion.
    schema.sort_all_objects();
    format!("{schema:#}\n")
}
