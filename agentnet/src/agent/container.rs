//! Containers, as their runtimes know them.
//!
//! podman and docker are asked by their command lines, which are the same in what is needed here, and crun and
//! runc for containers that were started without either. What they say is a name and a process; the cgroup is
//! taken from the process itself.

pub mod poll;

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use super::tool::{self, ToolError};

/// A program that runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// podman.
    Podman,
    /// docker.
    Docker,
    /// crun, by itself.
    Crun,
    /// runc, by itself.
    Runc,
}

impl Runtime {
    /// All, in the order in which they are asked.
    pub const ALL: [Self; 4] = [Self::Podman, Self::Docker, Self::Crun, Self::Runc];

    /// Those that list their containers with names and labels.
    pub const MANAGERS: [Self; 2] = [Self::Podman, Self::Docker];

    /// Its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Who runs it.
    pub runtime: Runtime,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its first process, in the initial namespace.
    pub pid: i32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a container was not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// Not a name.
    #[error("{0:?} is not the name or id of a container")]
    Name(String),
    /// Nobody knows it.
    #[error("there is no container called {name}: {}", said.join("; "))]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// What each runtime said.
        said: Vec<String>,
    },
    /// Several are called that.
    #[error(
        "{name} may be {}; write its runtime before it, such as {}:{name}, or its id",
        list(found),
        first(found)
    )]
    Ambiguous {
        /// The name that was asked for.
        name: String,
        /// Those it may be.
        found: Vec<(Runtime, String)>,
    },
    /// It has no process.
    #[error("the container {name} does not run (it is {state}): start it, then attach")]
    NotRunning {
        /// Its name.
        name: String,
        /// What the runtime says of it.
        state: String,
    },
    /// A runtime did not answer.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

fn list(found: &[(Runtime, String)]) -> String {
    let found: Vec<_> = found.iter().map(|(runtime, id)| format!("{id} of {runtime}")).collect();
    found.join(" or ")
}

fn first(found: &[(Runtime, String)]) -> Runtime {
    found.first().map_or(Runtime::Podman, |(runtime, _)| *runtime)
}

/// What `container inspect` of podman and docker says, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    state: InspectedState,
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    status: String,
    pid: i32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: Option<BTreeMap<String, String>>,
}

/// What `state` of an OCI runtime says (runtime-spec, "Query State").
#[derive(Deserialize)]
struct OciState {
    id: String,
    status: String,
    #[serde(default)]
    pid: i32,
    annotations: Option<BTreeMap<String, String>>,
}

/// A container, running or not.
struct Found {
    container: Container,
    state: String,
}

impl Inspected {
    fn found(self, runtime: Runtime) -> Found {
        Found {
            container: Container {
                runtime,
                // docker puts a slash before it.
                name: self.name.trim_start_matches('/').to_owned(),
                id: self.id,
                pid: self.state.pid,
                labels: self.config.labels.unwrap_or_default(),
            },
            state: self.state.status,
        }
    }
}

/// Finds the running container called `name`: its name, its id or the beginning of it, `podman:NAME` where several
/// runtimes have one of that name. Asks every runtime that is installed, and takes seconds if one is slow.
///
/// # Errors
/// If there is none, several, or it does not run.
pub fn find(name: &str) -> Result<Container, ContainerError> {
    let prefixed = Runtime::ALL.into_iter().find_map(|runtime| {
        let rest = name.strip_prefix(runtime.program())?.strip_prefix(':')?;
        Some((vec![runtime], rest))
    });
    let (runtimes, name) = prefixed.unwrap_or((Runtime::ALL.to_vec(), name));
    if !is_name(name) {
        return Err(ContainerError::Name(name.to_owned()));
    }
    let (mut found, mut said) = (Vec::new(), Vec::new());
    for runtime in runtimes {
        let asked = match runtime {
            Runtime::Podman | Runtime::Docker => inspect(runtime, &[name]),
            // podman's containers are crun's too: what its manager knows is not asked for again.
            Runtime::Crun | Runtime::Runc if !found.is_empty() => continue,
            Runtime::Crun | Runtime::Runc => state(runtime, name),
        };
        match asked {
            Ok(more) => found.extend(more),
            Err(error) => said.push(error.to_string()),
        }
    }
    match <[Found; 1]>::try_from(found) {
        Ok([Found { container, state }]) if container.pid <= 0 || state != "running" && state != "paused" => {
            Err(ContainerError::NotRunning { name: container.name, state })
        }
        Ok([found]) => Ok(found.container),
        Err(found) if found.is_empty() => Err(ContainerError::NotFound { name: name.to_owned(), said }),
        Err(found) => Err(ContainerError::Ambiguous {
            name: name.to_owned(),
            found: found.into_iter().map(|found| (found.container.runtime, found.container.id)).collect(),
        }),
    }
}

/// The ids of the containers of `runtime` that run; none where it is not installed.
///
/// # Errors
/// If it does not answer.
pub fn running(runtime: Runtime) -> Result<Vec<String>, ToolError> {
    let answer = match tool::ask(runtime.program(), &["ps", "--quiet", "--no-trunc"]) {
        Err(ToolError::Missing { .. }) => return Ok(Vec::new()),
        answer => answer?.ok()?,
    };
    Ok(answer.lines().map(str::trim).filter(|id| is_name(id)).map(str::to_owned).collect())
}

/// What `runtime` says of the containers with these ids; those that have ended meanwhile are left out.
///
/// # Errors
/// If it does not answer.
pub fn describe(runtime: Runtime, ids: &[String]) -> Result<Vec<Container>, ToolError> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = inspect(runtime, &ids)?;
    Ok(found.into_iter().map(|found| found.container).filter(|container| container.pid > 0).collect())
}

fn inspect(runtime: Runtime, names: &[&str]) -> Result<Vec<Found>, ToolError> {
    let arguments: Vec<_> = ["container", "inspect"].into_iter().chain(names.iter().copied()).collect();
    let answer = tool::ask(runtime.program(), &arguments)?;
    // One name that is not known makes it fail, and it describes the others all the same.
    match serde_json::from_str::<Vec<Inspected>>(answer.text()) {
        Ok(found) if found.is_empty() => Err(answer.failure()),
        Ok(found) => Ok(found.into_iter().map(|inspected| inspected.found(runtime)).collect()),
        Err(_) if answer.text().trim().is_empty() => Err(answer.failure()),
        Err(error) => Err(answer.senseless(&error)),
    }
}

fn state(runtime: Runtime, id: &str) -> Result<Vec<Found>, ToolError> {
    let answer = tool::ask(runtime.program(), &["state", id])?;
    let state: OciState = match serde_json::from_str(answer.text()) {
        Ok(state) => state,
        Err(_) if answer.text().trim().is_empty() => return Err(answer.failure()),
        Err(error) => return Err(answer.senseless(&error)),
    };
    let labels = state.annotations.unwrap_or_default();
    let container = Container { runtime, name: state.id.clone(), id: state.id, pid: state.pid, labels };
    Ok(vec![Found { container, state: state.status }])
}

/// Whether `name` can be a container's: nothing that a program would take for an option.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from what podman 4.3 says.
    const PODMAN: &str = r#"[{"Id": "e0546f84ce91", "Created": "2026-11-22T22:13:18Z",
        "State": {"OciVersion": "1.0.2-dev", "Status": "running", "Running": true, "Pid": 21339,
        "CgroupPath": "/agents/libpod-e0546f84ce91"}, "Name": "an-test",
        "Config": {"Hostname": "e0546f84ce91", "Labels": {"agentnet": "coding"}}}]"#;
    /// In the form of docker's API: a slash before the name, no labels.
    const DOCKER: &str = r#"[{"Id": "4fa6e0f0c678", "State": {"Status": "exited", "Pid": 0},
        "Name": "/web", "Config": {"Labels": null}}]"#;

    fn found(text: &str, runtime: Runtime) -> Found {
        let mut all: Vec<Inspected> = serde_json::from_str(text).unwrap();
        all.remove(0).found(runtime)
    }

    #[test]
    fn both_managers_are_understood() {
        let podman = found(PODMAN, Runtime::Podman);
        assert_eq!((podman.container.name.as_str(), podman.container.pid), ("an-test", 21339));
        assert_eq!(podman.container.labels.get("agentnet").map(String::as_str), Some("coding"));
        let docker = found(DOCKER, Runtime::Docker);
        assert_eq!((docker.container.name.as_str(), docker.container.pid), ("web", 0));
        assert_eq!(docker.state, "exited");
    }

    #[test]
    fn options_are_no_names() {
        for name in ["web", "0f3a", "a_b.c-d", "9"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-f", "--all", "a b", "a/b", "a\n", ".x"] {
            assert!(!is_name(name), "{name}");
            assert!(matches!(find(name), Err(ContainerError::Name(_))), "{name}");
        }
    }
}
