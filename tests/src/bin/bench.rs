//! What `cargo xtask bench` runs: prints its tables in Markdown, and all values as JSON if asked to.

use std::{fs, net::SocketAddr, path::PathBuf};

use agentnet_tests::{
    bench::{
        load::{self, CONNECT_PORT, Load, STREAM_PORT},
        pairs::{self, Measure},
        programs, reaction,
        report::Report,
        start,
    },
    lab::{hosts::Hosts, net::Family, policy::Policy, server::Servers},
};
use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(about)]
struct Cli {
    /// Pairs for each measure.
    #[arg(long, default_value_t = 30)]
    pairs: usize,
    /// Seconds for each run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Write all values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(clap::Subcommand)]
enum Role {
    /// The agent: makes load.
    #[command(hide = true)]
    Load {
        /// Once for every line of standard input.
        #[arg(long)]
        turns: bool,
        #[command(subcommand)]
        load: Load,
    },
    /// The agent: leaks by names until each is blocked.
    #[command(hide = true)]
    Leak {
        /// The resolver.
        to: SocketAddr,
    },
    /// Measures how long it takes until what was found is blocked, and nothing else.
    Reaction,
    /// Says what time it is, see [`start::now`].
    #[command(hide = true)]
    Clock,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Load { turns: true, load }) => return load.take_turns(),
        Some(Role::Load { turns: false, load }) => {
            println!("{}", load.run()?);
            return Ok(());
        }
        Some(Role::Leak { to }) => return reaction::leak(to),
        Some(Role::Reaction) => {
            print!("{}", reaction::table(&Hosts::new()?)?);
            return Ok(());
        }
        Some(Role::Clock) => {
            println!("{}", start::now());
            return Ok(());
        }
        None => {}
    }
    // Without a sniffer: it would have to keep every packet.
    let hosts = Hosts::new()?;
    let _echo = Servers::start(&hosts.server, &[Family::V4.allowed_endpoint()])?;
    load::serve(&hosts)?;
    let dir = tempfile::tempdir()?;
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, Policy::standard().allow_hosts(&[STREAM_PORT, CONNECT_PORT], &["tcp"]).text())?;

    let mut comparisons = Vec::new();
    for measure in Measure::ALL {
        comparisons.push(pairs::compare(&hosts, measure, Some(&policy), cli.pairs, cli.seconds)?);
        comparisons.push(pairs::compare(&hosts, measure, None, cli.pairs, cli.seconds)?);
    }
    let start = start::measure(&hosts, &policy, cli.pairs)?;
    let programs = programs::measure(&hosts, CONNECT_PORT, cli.seconds)?;
    let report = Report {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism()?.get(),
        programs,
        comparisons,
        start,
    };
    print!("{report}");
    print!("\n{}", reaction::table(&hosts)?);
    if let Some(file) = cli.json {
        fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}
