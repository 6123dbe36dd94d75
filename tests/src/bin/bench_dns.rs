//! `cargo xtask bench --dns`: what names cost, as a table in Markdown.

use std::net::SocketAddr;

use agentnet_tests::bench::{dns, row::Table};
use clap::Parser;

#[derive(Parser)]
#[command(about)]
struct Cli {
    /// Pairs of turns.
    #[arg(long, default_value_t = 30)]
    pairs: usize,
    /// Seconds for each turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(clap::Subcommand)]
enum Role {
    /// The agent: asks.
    #[command(hide = true)]
    Load {
        /// Whom.
        to: SocketAddr,
        /// Seconds for each turn.
        seconds: f64,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Role::Load { to, seconds }) = cli.role {
        return dns::take_turns(to, seconds);
    }
    println!(
        "Linux {}, {} CPUs.\n",
        rustix::system::uname().release().to_string_lossy(),
        std::thread::available_parallelism()?.get()
    );
    print!("{}", Table(dns::measure(cli.pairs, cli.seconds)?));
    Ok(())
}
