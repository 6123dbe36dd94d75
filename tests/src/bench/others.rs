//! Other tools on the same capture, where they are installed: what they take, to compare with.

use std::{
    mem::MaybeUninit,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::detect::Row;

/// A tool: its name, and the arguments before and behind the capture that have it look at names and requests.
const TOOLS: [(&str, &[&str], &[&str]); 2] = [
    ("ndpiReader", &["-q", "-i"], &[]),
    ("tshark", &["-n", "-r"], &["-T", "fields", "-e", "ip.src", "-e", "dns.qry.name", "-e", "http.host"]),
];

/// A row for each tool; one that is not installed is said to be missing.
pub fn rows(capture: &Path, packets: u32) -> Vec<Row> {
    TOOLS.iter().map(|(tool, before, behind)| row(tool, before, behind, capture, packets)).collect()
}

fn row(tool: &str, before: &[&str], behind: &[&str], capture: &Path, packets: u32) -> Row {
    let what = format!("{tool} on the same capture, packets a second of processor time");
    let start = children();
    let status = Command::new(tool)
        .args(before)
        .arg(capture)
        .args(behind)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let result = match status {
        Ok(status) if status.success() => {
            let end = children();
            let spent = end.spent.saturating_sub(start.spent);
            let rate = f64::from(packets) / spent.as_secs_f64().max(0.001);
            // The largest of all children: tools that need less than one before them are not told apart.
            let memory =
                if end.peak > start.peak { format!(", {} MiB", end.peak >> 10) } else { String::new() };
            format!("{rate:.0}{memory}")
        }
        Ok(status) => format!("failed ({status})"),
        Err(error) => format!("not measured ({error})"),
    };
    (what, result, "-".to_owned())
}

/// What children that have ended took together.
struct Children {
    spent: Duration,
    /// Largest resident set of one, in KiB.
    peak: i64,
}

fn children() -> Children {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes no more than the structure; all zeroes is a value of it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(micros)
    };
    Children { spent: time(usage.ru_utime) + time(usage.ru_stime), peak: usage.ru_maxrss }
}
