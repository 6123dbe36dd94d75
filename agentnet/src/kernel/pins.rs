//! What outlives this process: pinned links keep enforcing, pinned maps can be read by whoever comes next.
//!
//! Below the pin directory of an engine, `maps/NAME` and `links/AGENT/PROGRAM`.

use std::{
    collections::HashMap as StdMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use agentnet_common::abi::maps;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya_obj::Object;

use super::{KernelError, sys};
use crate::agent::AgentName;

/// Where a map of the engine at `pins` is.
pub(super) fn map_path(pins: &Path, map: &str) -> PathBuf {
    pins.join("maps").join(map)
}

/// Where the links of an agent are.
pub fn links_of(pins: &Path, agent: &AgentName) -> PathBuf {
    pins.join("links").join(agent)
}

/// Where the link of one program of an agent is.
pub(super) fn link_path(pins: &Path, agent: &AgentName, program: &str) -> PathBuf {
    links_of(pins, agent).join(program)
}

/// Makes the empty directories of an engine's pins.
pub(super) fn create(pins: &Path) -> Result<(), KernelError> {
    ["maps", "links"].into_iter().try_for_each(|name| directory(&pins.join(name)))
}

/// Makes a directory and those above it.
pub(super) fn directory(path: &Path) -> Result<(), KernelError> {
    fs::create_dir_all(path).map_err(|source| KernelError::PinDirectory { path: path.to_owned(), source })
}

/// The agents that have links, in no order.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn agents(pins: &Path) -> io::Result<Vec<AgentName>> {
    let names = names(&pins.join("links"))?;
    Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
}

/// Removes the links of one agent: **enforcement ends here**. What is not there is no error.
///
/// # Errors
/// When an entry exists and cannot be removed.
pub fn clear_agent(pins: &Path, agent: &AgentName) -> io::Result<()> {
    clear_directory(&links_of(pins, agent))
}

/// Removes everything an engine has pinned, links first: **enforcement ends here**. What is not there is no error.
///
/// # Errors
/// When an entry exists and cannot be removed.
pub fn clear_pins(pins: &Path) -> io::Result<()> {
    clear_engine(pins)?;
    absent_is_fine(fs::remove_dir(pins))
}

/// The same, but for the directory itself, in which other engines may have theirs.
///
/// # Errors
/// When an entry exists and cannot be removed.
pub fn clear_engine(pins: &Path) -> io::Result<()> {
    let links = pins.join("links");
    for name in names(&links)? {
        clear_directory(&links.join(name))?;
    }
    clear_directory(&links)?;
    clear_directory(&pins.join("maps"))
}

/// Removes the maps that the agents of an engine share. No agent may have links.
///
/// # Errors
/// When an entry exists and cannot be removed.
pub fn clear_shared(pins: &Path) -> io::Result<()> {
    clear_directory(&pins.join("maps"))
}

/// The pins of engines of other builds, beside those at `pins`.
///
/// # Errors
/// When the directory above cannot be read.
pub fn others(pins: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(root) = pins.parent() else { return Ok(Vec::new()) };
    let paths = names(root)?.into_iter().map(|name| root.join(name));
    Ok(paths.filter(|path| path != pins && path.is_dir()).collect())
}

/// Sets aside what is pinned at `pins`, to where [`others`] finds it: what it enforces, it goes on to. Returns the new
/// place.
///
/// # Errors
/// When something cannot be moved.
pub fn set_aside(pins: &Path) -> io::Result<PathBuf> {
    let name = pins.file_name().unwrap_or_default().to_string_lossy();
    let free = (1..u32::MAX).map(|number| pins.with_file_name(format!("{name}-{number}")));
    let place = free.into_iter().find(|path| !path.exists()).ok_or(io::ErrorKind::AlreadyExists)?;
    fs::create_dir(&place)?;
    // Links first: whoever finds maps without them finds nothing that rests on these. Engines of `agentnet run` know
    // where theirs are, and have their own maps.
    for part in ["links", "maps"] {
        absent_is_fine(fs::rename(pins.join(part), place.join(part)))?;
    }
    Ok(place)
}

/// Removes what is pinned at `pins` by an engine that is gone, and the directory if nobody else has anything there.
/// No agent may have links.
///
/// # Errors
/// When an entry exists and cannot be removed.
pub fn retire(pins: &Path) -> io::Result<()> {
    clear_engine(pins)?;
    // Refused while engines of `agentnet run` have their pins in it, which is why it can be tried.
    let _ = fs::remove_dir(pins);
    Ok(())
}

/// Opens a pinned map whose keys and values must have these sizes: the kernel would write beyond a smaller one.
pub(super) fn open_map(pins: &Path, map: &str, key: usize, value: usize) -> io::Result<OwnedFd> {
    let path = map_path(pins, map);
    let info = MapInfo::from_pin(&path).map_err(io::Error::other)?;
    let fits = usize::try_from(info.key_size()).is_ok_and(|size| size == key)
        && usize::try_from(info.value_size()).is_ok_and(|size| size == value);
    if !fits {
        return Err(io::Error::other(format!("{} is of another version", path.display())));
    }
    sys::obj_get(&path)
}

/// Removes a directory and the files in it.
fn clear_directory(directory: &Path) -> io::Result<()> {
    for name in names(directory)? {
        absent_is_fine(fs::remove_file(directory.join(name)))?;
    }
    absent_is_fine(fs::remove_dir(directory))
}

/// What is in a directory; nothing if there is none.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Cookies of the TCP sockets that may hold refused data, each with its agent's number, read from an engine's
/// pins: they are to be destroyed before the links go, or the kernel delivers what the hooks held back.
/// Nothing if the engine has no pins any more.
///
/// # Errors
/// When the pinned map exists and cannot be opened or read.
pub fn refused_sockets(pins: &Path) -> Result<StdMap<u64, u32>, KernelError> {
    let path = map_path(pins, maps::REFUSED);
    if !path.exists() {
        return Ok(StdMap::new());
    }
    let data = MapData::from_pin(path).map_err(|source| KernelError::Map { map: maps::REFUSED, source })?;
    read_refused(&Map::HashMap(data))
}

pub(super) fn read_refused(map: &Map) -> Result<StdMap<u64, u32>, KernelError> {
    let failed = |source| KernelError::Map { map: maps::REFUSED, source };
    let map = HashMap::<_, u64, u32>::try_from(map).map_err(failed)?;
    map.iter().map(|entry| entry.map_err(failed)).collect()
}

/// Compares the maps that are pinned with those of `object`: the loader takes a pinned map as it finds it.
/// A map that is not pinned yet is no error, it will be made.
pub(super) fn check_shapes(pins: &Path, object: &Object) -> Result<(), KernelError> {
    for (name, map) in &object.maps {
        let path = map_path(pins, name);
        if !path.exists() {
            continue;
        }
        let wrong = |what: String| KernelError::Shape { path: path.clone(), what };
        let info = MapInfo::from_pin(&path).map_err(|error| wrong(error.to_string()))?;
        let kind = info.map_type().map_err(|error| wrong(error.to_string()))? as u32;
        let found = [kind, info.key_size(), info.value_size(), info.max_entries(), info.map_flags()];
        let expected = [map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()];
        let parts = ["type", "key size", "value size", "size", "flags"];
        for ((part, found), expected) in parts.into_iter().zip(found).zip(expected) {
            if found != expected {
                return Err(wrong(format!("its {part} is {found} and should be {expected}")));
            }
        }
    }
    Ok(())
}
