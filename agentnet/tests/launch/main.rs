//! The launcher with real processes. The binary is its own helper: as `--helper run` it is the parent under
//! test, as `--helper probe` the confined command. Most tests need root, since they run as uid 0 and as an
//! ordinary user; without it they fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code; clippy.toml exempts functions marked #[test], and with libtest-mimic none is"
)]

mod confinement;
mod helper;
mod jobs;
mod processes;
mod root;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|a| a == "--helper") {
        return helper::main(args.collect());
    }
    let trials: Vec<Trial> = [processes::trials(), jobs::trials(), confinement::trials(), root::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
