//! An ordinary user with a home and groups, known to sudo or doas. The user exists in the mounts of the
//! commands that are started as the user, and nowhere else.

use std::{
    ffi::CString,
    fmt,
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use rustix::{
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{
        Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
    },
};
use tempfile::TempDir;

/// The user's number, and that of the user's own group. Nobody on a host is likely to have it.
pub const UID: u32 = 54_321;
/// Another group of the user's.
pub const OTHER_GROUP: u32 = 54_322;
/// The user's name.
pub const NAME: &str = "lab-user";

/// A program that lends root.
#[derive(Clone, Copy, Debug)]
pub enum Lender {
    /// `sudo`.
    Sudo,
    /// `doas`.
    Doas,
}

impl fmt::Display for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sudo => "sudo",
            Self::Doas => "doas",
        })
    }
}

/// What they say of their caller. Tests that are themselves started by one must not pass it on.
pub const CALLER: [&str; 5] = ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "DOAS_USER"];

/// Where a program that lends root is, if it is installed.
pub fn installed(lender: Lender) -> Option<PathBuf> {
    ["/usr/bin", "/usr/local/bin"]
        .map(|directory| Path::new(directory).join(lender.to_string()))
        .into_iter()
        .find(|path| path.exists())
}

/// The user.
pub struct Account {
    root: TempDir,
}

impl Account {
    /// Makes the user, with the configuration of sudo and doas that is given: lines of `sudoers` and of `doas.conf`.
    /// What the user finds in `PATH` is `lender` alone, or nothing.
    ///
    /// # Errors
    /// If files cannot be made.
    pub fn new(lender: Option<&Path>, sudoers: &str, doas: &str) -> Result<Self> {
        let root = TempDir::with_prefix("agentnet-lab-")?;
        fs::set_permissions(root.path(), Permissions::from_mode(0o755))?;
        let account = Self { root };
        let copied =
            Command::new("cp").arg("-a").args(["/etc", "etc"]).current_dir(account.root.path()).status()?;
        ensure!(copied.success(), "cp: {copied}");
        let home = account.home();
        account.append("passwd", &format!("{NAME}:x:{UID}:{UID}::{}:/bin/sh", home.display()))?;
        account.append("group", &format!("{NAME}:x:{UID}:\nlab-others:x:{OTHER_GROUP}:{NAME}"))?;
        // No password, and never expired.
        account.append("shadow", &format!("{NAME}:*:19000:0:99999:7:::"))?;
        account.write("sudoers", sudoers, 0o440)?;
        account.write("doas.conf", doas, 0o400)?;
        fs::create_dir(&home)?;
        chown(&home, Some(UID), Some(UID))?;
        fs::create_dir(account.path_entry())?;
        if let Some(lender) = lender {
            symlink(lender, account.path_entry().join(lender.file_name().unwrap_or_default()))?;
        }
        Ok(account)
    }

    fn append(&self, file: &str, lines: &str) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.root.path().join("etc").join(file))?;
        Ok(writeln!(file, "{lines}")?)
    }

    fn write(&self, file: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.root.path().join("etc").join(file);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
    }

    /// The user's home.
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// The only directory in the user's `PATH`.
    pub fn path_entry(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    /// Has the user start `command`, in the user's home and with the user's environment and groups.
    ///
    /// # Errors
    /// If a path cannot be written down.
    pub fn starts(&self, command: &mut Command) -> Result<()> {
        command.current_dir(self.home()).env("HOME", self.home()).env("PATH", self.path_entry());
        command.env("USER", NAME).env("LOGNAME", NAME).env("SHELL", "/bin/sh");
        command.env_remove("XDG_RUNTIME_DIR").env_remove("TMPDIR");
        let etc = CString::new(self.root.path().join("etc").as_os_str().as_bytes())?;
        let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
        let become_user = move || {
            // SAFETY: the child has one thread; nothing else shares its mounts.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount_bind(etc.as_c_str(), c"/etc")?;
            set_thread_groups(&[gid, Gid::from_raw(OTHER_GROUP)])?;
            set_thread_res_gid(gid, gid, gid)?;
            Ok(set_thread_res_uid(uid, uid, uid)?)
        };
        // SAFETY: system calls alone, their arguments made before the fork.
        unsafe { command.pre_exec(become_user) };
        Ok(())
    }
}
