//! docs/alerts.md says what the code does.

use agentnet_common::verdict::Reason;

use super::super::{
    class::Class,
    loss::Cause,
    model::{Kind, Output, Severity},
};

const DOCS: &str = include_str!("../../../../docs/alerts.md");

fn severity(severity: Severity) -> String {
    serde_json::to_value(severity).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn the_tables_list_every_reason_and_cause() {
    for reason in Reason::ALL {
        let class = Class::of(*reason);
        let row = format!(
            "| `{}` | `{}` | {} | {} |",
            reason.label(),
            class.kind.label(),
            severity(class.severity),
            class.technique.unwrap_or("")
        );
        assert!(DOCS.contains(&row), "docs/alerts.md lacks: {row}");
    }
    for cause in Cause::ALL {
        let row = format!(
            "| `{}` | {} | {} | {} |",
            cause.label(),
            severity(cause.severity()),
            cause.technique().unwrap_or(""),
            cause.what()
        );
        assert!(DOCS.contains(&row), "docs/alerts.md lacks: {row}");
    }
}

#[test]
fn the_examples_are_lines_of_the_log_and_cover_every_kind() {
    let examples: Vec<Output> = DOCS
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .flat_map(|(block, _)| block.lines())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let has = |wanted: Kind| {
        examples.iter().any(|output| matches!(output, Output::Alert(alert) if alert.kind == wanted))
    };
    for kind in [
        Kind::EgressDenied,
        Kind::RawSocket,
        Kind::EscapeAttempt,
        Kind::VisibilityLost,
        Kind::Enforcement,
        Kind::Act,
    ] {
        assert!(has(kind), "no example of {}", kind.label());
    }
    assert!(examples.iter().any(|output| matches!(output, Output::Flow(_))), "no example of a flow");
}
