//! What `agentnet run` shows, and where.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{
    alert::{
        learn,
        log::{Log, LogError, Options, Trouble},
        model::Output,
        render::Renderer,
        summary::Summary,
    },
    cli::complain,
    control::{
        client::Session,
        protocol::{Ready, Reply},
    },
};

/// Standard error and the user's files.
pub(super) struct Screen {
    files: Vec<Log>,
    /// Whether lines are shown as they come. Not while the command has the terminal to itself.
    live: bool,
    json: bool,
    renderer: Renderer,
    /// A program in raw mode has the terminal begin no line by itself.
    line_end: &'static str,
    summary: Option<Summary>,
}

impl Screen {
    /// Opens the user's files with the user's rights.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub(super) fn open(alerts: &[PathBuf], json: bool) -> Result<Self, LogError> {
        let on_screen = |path: &&PathBuf| path.as_os_str() == "-";
        // The user's own files are the user's to rotate.
        let options = Options { total_bytes: u64::MAX, ..Options::default() };
        let files = alerts.iter().filter(|path| !on_screen(path));
        let files = files.map(|path| Log::open(path, options)).collect::<Result<_, _>>()?;
        let stderr = std::io::stderr();
        let command_has_terminal = std::io::stdin().is_terminal() && stderr.is_terminal();
        let color = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
        Ok(Self {
            files,
            live: !command_has_terminal || alerts.iter().any(|path| on_screen(&path)),
            json,
            renderer: Renderer::new(color, TimeZone::system()),
            line_end: if stderr.is_terminal() { "\r\n" } else { "\n" },
            summary: None,
        })
    }

    /// Says what was set up.
    pub(super) fn ready(&mut self, ready: &Ready) {
        if self.json {
            self.object(&Reply::Ready(ready.clone()));
            return;
        }
        let Ready { agent, policy, audit, .. } = ready;
        if *audit {
            complain(&format!(
                "agent {agent} is AUDITED (policy {policy}): nothing is blocked, all of it is reported"
            ));
        } else {
            complain(&format!("agent {agent} runs under policy {policy}: what no rule allows is refused"));
        }
        match (&ready.log, self.live) {
            (Some(log), true) => complain(&format!("alerts are shown here and written to {log}")),
            (Some(log), false) => complain(&format!("alerts are written to {log}, and summed up at the end")),
            (None, _) => {}
        }
        for warning in &ready.warnings {
            self.note(warning);
        }
    }

    /// Says something about this run in one sentence.
    pub(super) fn note(&self, text: &str) {
        if self.json {
            self.object(&Reply::Notice(text.to_owned()));
        } else {
            complain(text);
        }
    }

    /// Shows what the engine tells, until it has told everything.
    pub(super) fn follow(&mut self, session: &Session) {
        loop {
            match session.next() {
                Ok(Some(reply)) => {
                    let last = is_last(&reply);
                    self.reply(reply);
                    if last {
                        return;
                    }
                }
                Ok(None) => return self.note(ABANDONED),
                Err(error) => {
                    self.note(&error.to_string());
                    return self.note(ABANDONED);
                }
            }
        }
    }

    fn reply(&mut self, reply: Reply) {
        match reply {
            Reply::Output(output) => self.output(&output),
            Reply::Notice(text) => self.note(&text),
            Reply::Error(failure) => self.note(&failure.message),
            Reply::Summary(summary) => self.summary = Some(*summary),
            Reply::Ready(_) | Reply::Status(_) | Reply::Finished => {}
        }
    }

    fn output(&mut self, output: &Output) {
        let now = Timestamp::now();
        let troubles: Vec<(PathBuf, Trouble)> = self
            .files
            .iter_mut()
            .filter_map(|file| Some((file.path().to_owned(), file.append(output, now)?)))
            .collect();
        for (path, Trouble { lost, error }) in troubles {
            self.note(&format!("{lost} lines were not written to {}: {error}", path.display()));
        }
        if !self.live {
            return;
        }
        if self.json {
            self.object(output);
        } else {
            self.print(&self.renderer.line(output));
        }
    }

    /// Sums up; with `learn`, prints a policy that would allow what was seen.
    pub(super) fn close(mut self, ready: &Ready, learn: bool) {
        let now = Timestamp::now();
        for file in self.files.drain(..) {
            let path = file.path().to_owned();
            if let Some(Trouble { lost, error }) = file.close(now) {
                complain(&format!("{lost} lines were not written to {}: {error}", path.display()));
            }
        }
        let Some(summary) = self.summary.take() else { return };
        if self.json {
            self.object(&Reply::Summary(Box::new(summary)));
            return;
        }
        let text = self.renderer.summary(&summary, ready.log.as_deref().map(Path::new));
        self.print(text.trim_end());
        if learn {
            self.print("\nThis policy would allow what was seen; keep what is meant to be:\n");
            self.print(&learn::policy(&summary));
        }
    }

    fn object(&self, object: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(object) {
            self.print(&line);
        }
    }

    fn print(&self, text: &str) {
        let mut text = text.replace('\n', self.line_end);
        text.push_str(self.line_end);
        // In one piece, as the command may write to the same terminal; a closed one is not worth a word.
        let _ = anstream::stderr().lock().write_all(text.as_bytes());
    }
}

const ABANDONED: &str = "the engine is gone; the policy stays in force until the agent's last process ends, nothing \
                         more is reported, and the next agentnet command clears up";

/// Whether nothing follows this reply.
pub(super) const fn is_last(reply: &Reply) -> bool {
    matches!(reply, Reply::Finished | Reply::Error(_))
}
