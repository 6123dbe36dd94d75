//! The agent of the end-to-end tests: does what it is told and says what the system calls said.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    thread,
};

use agentnet_tests::probe::{self, Args, Request};
use anyhow::{Context as _, Result};
use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Command {
    /// Lists the operations.
    List,
    /// Runs one operation.
    Op {
        /// Its name.
        name: String,
        #[command(flatten)]
        args: Args,
    },
    /// Runs a JSON list of operations, each in a child, and prints a line for each.
    Suite {
        /// The file.
        file: PathBuf,
    },
    /// Runs a JSON list of operations in this process, says nothing of them, and waits until its input ends.
    Stay {
        /// The file.
        file: PathBuf,
    },
    /// Echoes on TCP and UDP until its input ends.
    Serve {
        /// TCP addresses.
        #[arg(long)]
        tcp: Vec<SocketAddr>,
        /// UDP addresses.
        #[arg(long)]
        udp: Vec<SocketAddr>,
    },
    /// Connects to each address, then writes lines `INDEX TEXT` of its input to the connections.
    Talk {
        /// The addresses.
        to: Vec<SocketAddr>,
        /// Addresses over UDP, numbered behind the others.
        #[arg(long)]
        udp: Vec<SocketAddr>,
    },
    /// Sends to an allowed and to a denied endpoint until its input ends, and says what came of it.
    Traffic {
        /// What the policy allows.
        #[arg(long)]
        allowed: SocketAddr,
        /// What it does not.
        #[arg(long)]
        denied: SocketAddr,
        /// What is sent there.
        #[arg(long)]
        marker: String,
    },
    /// Runs a JSON list of steps.
    Script {
        /// The file.
        file: PathBuf,
    },
    /// Sends a stream of bytes over TCP, or numbered datagrams, and reads the echo.
    Pour {
        /// Where to.
        to: SocketAddr,
        /// Bytes, or datagrams.
        amount: usize,
        /// Bytes for one call.
        #[arg(long, default_value_t = 1 << 16)]
        chunk: usize,
        /// Datagrams.
        #[arg(long)]
        udp: bool,
    },
    /// Holds a UDP socket of each family until its input ends.
    Hold,
    /// Executes a command in the sandbox that a unit of systemd's describes.
    Unit {
        /// The unit.
        unit: PathBuf,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Holds so many TCP sockets that will be refused to repeat what they have sent, until its input ends.
    Crowd {
        /// How many.
        count: usize,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::List => {
            let mut output = io::stdout().lock();
            for operation in probe::operations() {
                writeln!(output, "{:28} {}", operation.name, operation.about)?;
            }
            Ok(())
        }
        Command::Op { name, args } => {
            serde_json::to_writer(io::stdout(), &probe::run::one(&name, &args))?;
            Ok(writeln!(io::stdout())?)
        }
        Command::Suite { file } => Ok(probe::run::suite(&requests(&file)?, &mut io::stdout())?),
        Command::Stay { file } => {
            for request in requests(&file)? {
                probe::run::one(&request.op, &request.args);
            }
            ready_until_input_ends()
        }
        Command::Serve { tcp, udp } => serve(&tcp, &udp),
        Command::Talk { to, udp } => Ok(probe::talk::talk(&to, &udp)?),
        Command::Traffic { allowed, denied, marker } => Ok(probe::talk::traffic(allowed, denied, &marker)?),
        Command::Script { file } => {
            let text = fs::read_to_string(&file)?;
            Ok(probe::script::run(&serde_json::from_str::<Vec<probe::script::Step>>(&text)?)?)
        }
        Command::Pour { to, amount, chunk: _, udp: true } => Ok(probe::talk::drip(to, amount)?),
        Command::Pour { to, amount, chunk, udp: false } => Ok(probe::talk::pour(to, amount, chunk)?),
        Command::Hold => {
            let _v4 = UdpSocket::bind("0.0.0.0:0")?;
            let _v6 = UdpSocket::bind("[::]:0")?;
            ready_until_input_ends()
        }
        Command::Unit { unit, words } => agentnet_tests::lab::unit::execute(&unit, &words),
        Command::Crowd { count } => {
            let _crowd = probe::crowd::gather(count)?;
            ready_until_input_ends()
        }
    }
}

fn requests(file: &Path) -> Result<Vec<Request>> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

/// Tells who is ready, then waits.
fn ready_until_input_ends() -> Result<()> {
    writeln!(io::stdout(), "{{\"ready\":{}}}", std::process::id())?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn serve(tcp: &[SocketAddr], udp: &[SocketAddr]) -> Result<()> {
    for addr in tcp {
        let listener = TcpListener::bind(addr)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
    }
    for addr in udp {
        let socket = UdpSocket::bind(addr)?;
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                // A refused reply is for the far end to notice.
                let _ = socket.send_to(&buffer[..length], peer);
            }
        });
    }
    ready_until_input_ends()
}
