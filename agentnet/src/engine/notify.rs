//! What systemd is told (`sd_notify(3)`): nothing where it did not start this process.

use std::{
    io,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::alert::text::plural;

/// The way to systemd.
#[derive(Clone, Copy, Debug)]
pub struct Notify {
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment of this process says.
    pub fn from_env() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often [`Self::alive`] is to be called: twice in the time after which systemd takes the daemon for
    /// hung. `None` if it does not watch.
    pub fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// Everything that was governed is governed, and requests are answered.
    pub fn ready(&self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is being read again; [`Self::ready`] says that it was.
    pub fn reloading(&self) {
        // systemd tells by the time whether this belongs to the reload that it has asked for.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => untold(&error),
        }
    }

    /// What `systemctl status` shows, in one line.
    pub fn status(&self, status: &str) {
        send(&[NotifyState::Status(status)]);
    }

    /// The loop that does all the work goes round; to be called from there and from nowhere else.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            send(&[NotifyState::Watchdog]);
        }
    }

    /// The daemon is about to end. Agents stay under their policies.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }
}

/// Tells systemd now and then that the loop goes round, and when the number of agents changes.
#[derive(Debug)]
pub struct Heart {
    notify: Notify,
    beaten: Instant,
    agents: usize,
}

impl Heart {
    /// Begins to beat, with so many agents.
    pub fn new(notify: Notify, agents: usize) -> Self {
        notify.ready(&governs(agents));
        Self { notify, beaten: Instant::now(), agents }
    }

    /// To be called from the loop, more often than [`Notify::interval`].
    pub fn beat(&mut self, agents: usize) {
        if agents != self.agents {
            self.agents = agents;
            self.notify.status(&governs(agents));
        }
        if self.notify.interval().is_some_and(|interval| self.beaten.elapsed() >= interval) {
            self.beaten = Instant::now();
            self.notify.alive();
        }
    }

    /// Reloads, which systemd waits for.
    pub fn reload(&self, reload: impl FnOnce()) {
        self.notify.reloading();
        reload();
        self.notify.ready(&governs(self.agents));
    }
}

fn governs(agents: usize) -> String {
    format!("{} governed", plural(u64::try_from(agents).unwrap_or(u64::MAX), "agent"))
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        untold(&error);
    }
}

fn untold(error: &io::Error) {
    tracing::warn!(%error, "systemd was not told how the daemon is");
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixDatagram,
        process::{Command, Stdio},
    };

    use super::*;

    /// Set for the process that tells; only a new process can have an environment of its own.
    const TELLER: &str = "AGENTNET_TEST_NOTIFY";

    #[test]
    fn systemd_is_told_how_the_daemon_is() {
        if std::env::var_os(TELLER).is_some() {
            let notify = Notify::from_env();
            assert_eq!(notify.interval(), Some(Duration::from_secs(1)));
            notify.ready("2 agents");
            notify.alive();
            notify.reloading();
            notify.status("3 agents");
            return notify.stopping();
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine::notify::tests::systemd_is_told_how_the_daemon_is"])
            .env(TELLER, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        let told = || {
            let mut message = [0; 256];
            let length = systemd.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        assert_eq!(told(), "READY=1\nSTATUS=2 agents\n");
        assert_eq!(told(), "WATCHDOG=1\n");
        let reloading = told();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.trim_end().parse::<u64>().unwrap() > 0);
        assert_eq!(told(), "STATUS=3 agents\n");
        assert_eq!(told(), "STOPPING=1\n");
    }

    #[test]
    fn without_systemd_nothing_is_told_and_nothing_fails() {
        let notify = Notify { watchdog: None };
        assert_eq!(notify.interval(), None);
        notify.ready("");
        notify.alive();
    }
}
