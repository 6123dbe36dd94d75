//! `cargo xtask bench --watch`: what watching costs and how soon is told and done what has to be, as a table in Markdown.

use agentnet_tests::bench::{
    row::Table,
    watch::{Role, measure},
};
use clap::Parser;

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(clap::Subcommand)]
enum Part {
    /// An agent of the benchmark.
    #[command(hide = true)]
    Play {
        #[command(subcommand)]
        role: Role,
    },
}

fn main() -> anyhow::Result<()> {
    if let Some(Part::Play { role }) = Cli::parse().part {
        return role.run();
    }
    print!("{}", Table(measure()?));
    Ok(())
}
