//! What `agentnet run` shows, and where.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::stderr::Stderr;
use crate::{
    alert::{
        learn,
        model::{FlowAction, Output},
        render::Renderer,
        summary::Summary,
    },
    control::{
        client::Session,
        protocol::{Ready, Reply, too_fast},
    },
    store::{file::AppendFile, trouble::Trouble},
};

/// Standard error and the user's files.
pub(super) struct Screen {
    stderr: Stderr,
    files: Vec<AppendFile>,
    /// Whether what is not shown is written somewhere.
    logged: bool,
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
    pub(super) fn open(alerts: &[PathBuf], json: bool) -> Result<Self, super::Stop> {
        let on_screen = |path: &&PathBuf| path.as_os_str() == "-";
        let files = alerts.iter().filter(|path| !on_screen(path));
        let files: Vec<AppendFile> =
            files.map(|path| AppendFile::open(path)).collect::<Result<_, _>>().map_err(super::Stop::own)?;
        let stderr = std::io::stderr();
        let command_has_terminal = std::io::stdin().is_terminal() && stderr.is_terminal();
        let color = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
        Ok(Self {
            stderr: Stderr::start().map_err(super::Stop::own)?,
            logged: !files.is_empty(),
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
        self.logged |= ready.log.is_some();
        if self.json {
            let text = self.object(&Reply::Ready(ready.clone()));
            return self.stderr.send(text);
        }
        let Ready { agent, policy, audit, .. } = ready;
        self.note(&if *audit {
            format!("agent {agent} is AUDITED (policy {policy}): no rule blocks anything, what would be blocked is reported; what no agent may do stays refused")
        } else {
            format!("agent {agent} runs under policy {policy}: what no rule allows is refused")
        });
        match (&ready.log, self.live) {
            (Some(log), true) => self.note(&format!("alerts are shown here and written to {log}")),
            (Some(log), false) => {
                self.note(&format!(
                    "alerts are written to {log}, where `agentnet alerts --agent {agent}` reads them, and summed up at \
                     the end"
                ));
            }
            (None, _) => {}
        }
        for warning in &ready.warnings {
            self.note(warning);
        }
    }

    /// Says something about this run in one sentence.
    pub(super) fn note(&mut self, text: &str) {
        self.tell_dropped();
        let text = self.noted(text);
        self.stderr.send(text);
    }

    fn noted(&self, text: &str) -> String {
        if self.json {
            self.object(&Reply::Notice(text.to_owned()))
        } else {
            self.lines(&format!("agentnet: {text}"))
        }
    }

    fn tell_dropped(&mut self) {
        let dropped = self.stderr.take_dropped();
        if dropped > 0 {
            let text = self.noted(&too_fast(dropped, self.logged));
            self.stderr.resend(text, dropped);
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
            Reply::Missed(count) => self.note(&too_fast(count, self.logged)),
            Reply::Ready(_) | Reply::Status(_) | Reply::Done(_) | Reply::Acted(_) | Reply::Finished => {}
        }
    }

    fn output(&mut self, output: &Output) {
        let now = Timestamp::now();
        let troubles: Vec<(PathBuf, Trouble)> = self
            .files
            .iter_mut()
            .filter_map(|file| Some((file.path().to_owned(), file.append(output, now)?)))
            .collect();
        for (path, trouble) in troubles {
            self.note(&unwritten(&path, &trouble));
        }
        // That something allowed is over is for the log; people read how it began and what it came to.
        let over = matches!(output, Output::Flow(flow) if flow.action == FlowAction::Ended);
        if !self.live || over && !self.json {
            return;
        }
        self.tell_dropped();
        let text = if self.json { self.object(output) } else { self.lines(&self.renderer.line(output)) };
        self.stderr.send(text);
    }

    /// Sums up; with `learn`, prints a policy that would allow what was seen.
    pub(super) fn close(mut self, ready: &Ready, learn: bool) {
        let now = Timestamp::now();
        let mut last = Vec::new();
        for file in std::mem::take(&mut self.files) {
            let path = file.path().to_owned();
            if let Some(trouble) = file.close(now) {
                last.push(self.noted(&unwritten(&path, &trouble)));
            }
        }
        if let Some(summary) = self.summary.take() {
            if self.json {
                last.push(self.object(&Reply::Summary(Box::new(summary))));
            } else {
                let text = self.renderer.summary(&summary, ready.log.as_deref().map(Path::new));
                last.push(self.lines(text.trim_end()));
                if learn {
                    last.push(
                        self.lines("\nThis policy would allow what was seen; keep what is meant to be:\n"),
                    );
                    last.push(self.lines(learn::policy(&summary).trim_end()));
                }
            }
        }
        let dropped = self.stderr.take_dropped();
        if dropped > 0 {
            last.insert(0, self.noted(&too_fast(dropped, self.logged)));
        }
        self.stderr.close(last);
    }

    fn object(&self, object: &impl Serialize) -> String {
        // Strings and numbers always have a JSON form.
        self.lines(&serde_json::to_string(object).unwrap_or_default())
    }

    fn lines(&self, text: &str) -> String {
        let mut text = text.replace('\n', self.line_end);
        text.push_str(self.line_end);
        text
    }
}

fn unwritten(path: &Path, Trouble { lost, error }: &Trouble) -> String {
    format!("{lost} lines were not written to {}: {error}", path.display())
}

const ABANDONED: &str = "the engine is gone: the policy stays in force and nothing more is reported; when the agent \
                         has ended, `agentnet status` as root, or the next `agentnet run`, clears up";

/// Whether nothing follows this reply.
pub(super) const fn is_last(reply: &Reply) -> bool {
    matches!(reply, Reply::Finished | Reply::Error(_))
}
