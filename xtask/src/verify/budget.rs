//! What each kernel program may cost the verifier.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Program;

/// The largest stack a program can have, its calls included (`MAX_BPF_STACK`, include/linux/filter.h).
const MAX_STACK: u64 = 512;

const HEADER: &str = "\
# What each kernel program may cost the verifier; `cargo xtask verify` fails above it.
# Written by `cargo xtask verify --bless` with a quarter of room above the figures of the day. Blessing needs
# a reason in the commit: a program that suddenly costs ten times as much fails on an older kernel.

";

/// The budget file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// By the program's name.
    pub(super) programs: BTreeMap<String, Limit>,
}

/// What one program may cost at most.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    /// Instructions the verifier processes.
    pub(super) verified_instructions: u64,
    /// Deepest stack, bytes.
    pub(super) stack_bytes: u64,
}

impl Budget {
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    pub(super) fn render(&self) -> Result<String> {
        Ok(format!("{HEADER}{}", toml::to_string(self)?))
    }

    /// Today's figures and a quarter more; a stack is rounded up to words and ends at what the kernel allows.
    pub(super) fn with_room(programs: &[Program]) -> Self {
        let room = |figure: u64| figure + figure.div_ceil(4);
        let limit = |program: &Program| Limit {
            verified_instructions: room(program.verified_instructions).next_multiple_of(100),
            stack_bytes: room(program.stack_bytes).next_multiple_of(8).min(MAX_STACK),
        };
        Self { programs: programs.iter().map(|program| (program.name.clone(), limit(program))).collect() }
    }

    /// Everything that does not fit, a sentence each.
    pub(super) fn problems(&self, programs: &[Program]) -> Vec<String> {
        let mut problems = Vec::new();
        for program in programs {
            let name = &program.name;
            let Some(limit) = self.programs.get(name) else {
                problems.push(format!("{name} has no budget"));
                continue;
            };
            if program.verified_instructions > limit.verified_instructions {
                problems.push(format!(
                    "{name}: the verifier processed {} instructions, the budget is {}",
                    program.verified_instructions, limit.verified_instructions
                ));
            }
            if program.stack_bytes > limit.stack_bytes {
                problems.push(format!(
                    "{name}: {} bytes of stack, the budget is {}",
                    program.stack_bytes, limit.stack_bytes
                ));
            }
        }
        let gone = |name: &&String| !programs.iter().any(|program| program.name == **name);
        problems.extend(
            self.programs.keys().filter(gone).map(|name| format!("{name} has a budget and is not there")),
        );
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, verified_instructions: u64, stack_bytes: u64) -> Program {
        Program {
            name: name.to_owned(),
            section: String::new(),
            verified_instructions,
            instructions: 0,
            stack_bytes,
            ns_per_run: None,
        }
    }

    #[test]
    fn a_blessed_budget_fits_and_has_room() {
        let today = [program("connect4", 703, 96), program("egress", 7_042, 480)];
        let budget = Budget::parse(&Budget::with_room(&today).render().unwrap()).unwrap();
        assert_eq!(budget.programs["connect4"].verified_instructions, 900);
        assert_eq!(budget.programs["connect4"].stack_bytes, 120);
        assert_eq!(budget.programs["egress"].stack_bytes, 512);
        assert!(budget.problems(&today).is_empty());
    }

    #[test]
    fn every_excess_is_named() {
        let budget = Budget::with_room(&[program("a", 100, 80), program("gone", 1, 8)]);
        let problems = budget.problems(&[program("a", 1_000, 400), program("new", 1, 8)]);
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].contains("1000 instructions"));
        assert!(problems[1].contains("400 bytes of stack"));
        assert_eq!(problems[2], "new has no budget");
        assert_eq!(problems[3], "gone has a budget and is not there");
    }
}
