//! The keys of the configuration file.

use crate::policy::schema::{Key, Kind, Table, default, key};

const fn text(name: &'static str, value: &'static str, doc: &'static str) -> Key {
    default(name, Kind::Text(value), value, doc)
}

/// The file itself.
pub const CONFIG: Table = Table {
    name: "the configuration",
    doc: "The configuration of agentnet's daemon.",
    one_of: &[],
    keys: &[
        key("control", Kind::Table(&CONTROL), CONTROL.doc),
        key("policies", Kind::Table(&POLICIES), POLICIES.doc),
        key("store", Kind::Table(&STORE), STORE.doc),
        key("sample", Kind::Table(&SAMPLE), SAMPLE.doc),
        key("detect", Kind::Table(&DETECT), DETECT.doc),
    ],
};

/// `[control]`.
pub const CONTROL: Table = Table {
    name: "[control]",
    doc: "Who besides root may ask the daemon for something.",
    one_of: &[],
    keys: &[
        text("read_group", "agentnet", "Members may see status, alerts and flows. \"\" for nobody."),
        text(
            "run_group",
            "agentnet-run",
            "Members may have their own commands governed by `agentnet run`. \"\" for nobody.",
        ),
    ],
};

/// `[policies]`.
pub const POLICIES: Table = Table {
    name: "[policies]",
    doc: "The policies.",
    one_of: &[],
    keys: &[text("directory", "/etc/agentnet/policies", "Where they are: one file each, NAME.toml.")],
};

/// `[store]`.
pub const STORE: Table = Table {
    name: "[store]",
    doc: "What is kept of what agents did.",
    one_of: &[],
    keys: &[
        text("directory", "/var/lib/agentnet", "Where it is kept."),
        key("alerts", Kind::Table(&ALERTS), ALERTS.doc),
        key("flows", Kind::Table(&FLOWS), FLOWS.doc),
    ],
};

const SIZE_DOC: &str = "Bytes on disk of all agents together; the oldest goes first.";
const AGE_DOC: &str = "How long it is kept.";

/// `[store] alerts`.
pub const ALERTS: Table = Table {
    name: "`alerts` of [store]",
    doc: "How much is kept of what agents tried and what was done about it.",
    one_of: &[],
    keys: &[text("size", "256 MiB", SIZE_DOC), text("age", "90d", AGE_DOC)],
};

/// `[store] flows`.
pub const FLOWS: Table = Table {
    name: "`flows` of [store]",
    doc: "How much is kept of what agents were let send.",
    one_of: &[],
    keys: &[text("size", "256 MiB", SIZE_DOC), text("age", "30d", AGE_DOC)],
};

/// `[sample]`.
pub const SAMPLE: Table = Table {
    name: "[sample]",
    doc: "How closely traffic is looked at.",
    one_of: &[],
    keys: &[text(
        "http_bytes_per_second",
        "8 MiB",
        "Bytes of each agent's HTTP that are looked at in a second; what is over that is counted as a gap.",
    )],
};

/// `[detect]`.
pub const DETECT: Table = Table {
    name: "[detect]",
    doc: "What detectors are told of this host.",
    one_of: &[],
    keys: &[key("secret", Kind::Table(&SECRET), SECRET.doc)],
};

/// `[detect.secret]`.
pub const SECRET: Table = Table {
    name: "[detect.secret]",
    doc: "What must not leave this host.",
    one_of: &[],
    keys: &[key(
        "host_secrets",
        Kind::Texts,
        "Files and, as env:NAME, variables of the engine's environment whose values no agent may send, in whatever form.",
    )],
};
