//! `agentnet policy presets`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Streams;
use crate::{
    exit,
    policy::{
        diagnostic::quote,
        parse::walk::closest,
        presets::{self, PRESETS, Preset, Reasoned},
        validate::Target,
    },
};

/// Arguments of `agentnet policy presets`.
#[derive(Args, Debug)]
pub struct PresetsArgs {
    /// Show this one, with the reason for each of its rules.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print one JSON object a preset and line.
    #[arg(long)]
    json: bool,
}

pub(super) fn presets(args: &PresetsArgs, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.name else {
        if args.json {
            for preset in PRESETS {
                writeln!(streams.out, "{}", serde_json::to_string(&line(preset))?)?;
            }
        } else {
            list(streams)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(preset) = presets::find(name) else {
        let meant = closest(name, presets::names()).map(|meant| format!("; did you mean {meant}?"));
        writeln!(streams.err, "error: there is no preset {}{}", quote(name), meant.unwrap_or_default())?;
        writeln!(streams.err, "`agentnet policy presets` lists them")?;
        return Ok(ExitCode::from(exit::WRONG_USAGE));
    };
    if args.json {
        writeln!(streams.out, "{}", serde_json::to_string(&line(preset))?)?;
    } else {
        streams.out.write_all(preset.text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(streams: &mut Streams<'_>) -> std::io::Result<()> {
    let width = presets::names().map(str::len).max().unwrap_or_default();
    for preset in PRESETS {
        // The first sentence; `presets NAME` has the rest.
        let about = preset.about();
        let first = about.split_once(". ").map_or(about.as_str(), |(first, _)| first);
        writeln!(streams.out, "{:width$}  {}", preset.name, first.trim_end_matches('.'))?;
    }
    writeln!(
        streams.out,
        "\nin a policy:   [egress]\n               presets = [\"github\", \"pypi\"]\n\
         with reasons:  agentnet policy presets github"
    )
}

/// A preset as JSON.
#[derive(Serialize)]
struct PresetLine {
    name: &'static str,
    about: String,
    channel: String,
    rules: Vec<RuleLine>,
}

#[derive(Serialize)]
struct RuleLine {
    text: String,
    domain: Option<String>,
    line: usize,
    why: &'static str,
}

fn line(preset: &'static Preset) -> PresetLine {
    let rules = preset.rules().iter().map(|Reasoned { rule, line, why }| RuleLine {
        text: rule.to_string(),
        domain: match &rule.target {
            Target::Name(name) => Some(name.to_string()),
            Target::Net(_) => None,
        },
        line: *line,
        why,
    });
    PresetLine { name: preset.name, about: preset.about(), channel: preset.channel(), rules: rules.collect() }
}
