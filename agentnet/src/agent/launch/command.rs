//! The command as `execve` wants it, built before fork: nothing is allocated afterwards.

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::stat;

use super::LaunchError;
use crate::programs;

/// The interpreter of an executable text without a `#!` line, as with `execvp` and every shell.
const SHELL: &CStr = c"/bin/sh";

/// Argument vector, environment and the paths to try.
pub(super) struct Command {
    candidates: Vec<CString>,
    argv: Pointers,
    /// `/bin/sh`, a place for the candidate's path, the arguments.
    shell_argv: Pointers,
    envp: Pointers,
}

/// Strings and the null-terminated array of pointers to them.
struct Pointers {
    /// Owns what `raw` points to.
    _strings: Vec<CString>,
    raw: Vec<*const c_char>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        // The bytes of a CString stay where they are when the CString itself moves.
        let raw = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _strings: strings, raw }
    }
}

impl Command {
    /// Builds the vectors for `command` with `args` in the environment `env`.
    pub(super) fn new(
        command: &OsStr,
        args: &[OsString],
        env: &[(OsString, OsString)],
    ) -> Result<Self, LaunchError> {
        let path = env.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_os_str());
        let candidates = programs::candidates(command, path)
            .into_iter()
            .map(|file| c_string(file.into_os_string().into_vec(), || "the command's name".into()))
            .collect::<Result<_, _>>()?;

        let mut words = vec![c_string(command.as_bytes().to_vec(), || "the command's name".into())?];
        for (n, arg) in args.iter().enumerate() {
            words.push(c_string(arg.as_bytes().to_vec(), || format!("argument {}", n + 1))?);
        }
        let mut shell_words = vec![SHELL.to_owned(), CString::default()];
        shell_words.extend(words.iter().skip(1).cloned());

        let mut variables = Vec::with_capacity(env.len());
        for (key, value) in env {
            let mut line = key.as_bytes().to_vec();
            line.push(b'=');
            line.extend_from_slice(value.as_bytes());
            variables.push(c_string(line, || format!("the variable {}", key.display()))?);
        }
        Ok(Self {
            candidates,
            argv: Pointers::new(words),
            shell_argv: Pointers::new(shell_words),
            envp: Pointers::new(variables),
        })
    }

    /// Replaces the process; returns only if that failed, with the error number `execvp` would give.
    ///
    /// Async-signal-safe.
    pub(super) fn exec(&mut self) -> i32 {
        let mut denied = false;
        let mut last = libc::ENOENT;
        for candidate in &self.candidates {
            let mut errno = execve(candidate, &self.argv.raw, &self.envp.raw);
            if errno == libc::ENOEXEC {
                if let Some(slot) = self.shell_argv.raw.get_mut(1) {
                    *slot = candidate.as_ptr();
                }
                errno = execve(SHELL, &self.shell_argv.raw, &self.envp.raw);
            }
            match errno {
                // Also said of a directory in PATH that this user may not search: the command is not in there.
                libc::EACCES if self.candidates.len() > 1 && stat(candidate.as_c_str()).is_err() => {}
                libc::EACCES => denied = true,
                libc::ENOENT => {}
                // A PATH entry that is a file, a stale mount or an unreachable one: not this command's fault.
                libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT
                    if self.candidates.len() > 1 => {}
                other => return other,
            }
            last = errno;
        }
        if denied {
            libc::EACCES
        } else if self.candidates.len() > 1 {
            libc::ENOENT
        } else {
            last
        }
    }
}

fn c_string(bytes: Vec<u8>, what: impl FnOnce() -> String) -> Result<CString, LaunchError> {
    CString::new(bytes).map_err(|_| LaunchError::Nul { what: what() })
}

/// `execve`, with the error number it leaves.
fn execve(path: &CStr, argv: &[*const c_char], envp: &[*const c_char]) -> i32 {
    // SAFETY: `path` is NUL-terminated; both arrays end in a null pointer and point to NUL-terminated strings
    // owned by the `Pointers` they were borrowed from (or by `candidates` and `SHELL`).
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_byte_is_named() {
        let error = Command::new(OsStr::new("x"), &["a".into(), "b\0c".into()], &[]).err().unwrap();
        assert_eq!(error.to_string(), "argument 2 contains a NUL byte, which no program can be given");
        assert_eq!(error.exit_code(), 125);
    }
}
