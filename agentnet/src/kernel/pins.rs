//! What outlives this process: pinned links keep enforcing, pinned maps can be read by whoever cleans up.
//!
//! Below the pin directory of an agent, `maps/NAME` and `links/PROGRAM`.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use agentnet_common::abi::maps;
use aya::maps::{HashMap, Map, MapData};

use super::KernelError;

/// Maps that whoever cleans up after a dead owner needs, or marks sockets.
pub(super) const PINNED_MAPS: [&str; 5] = [maps::CFG, maps::NETS, maps::SOCK, maps::COUNTERS, maps::REFUSED];

pub(super) fn map_path(pins: &Path, map: &str) -> PathBuf {
    pins.join("maps").join(map)
}

pub(super) fn link_path(pins: &Path, program: &str) -> PathBuf {
    pins.join("links").join(program)
}

/// Makes the empty directories of one agent's pins.
pub(super) fn create(pins: &Path) -> Result<(), KernelError> {
    for directory in ["maps", "links"] {
        let path = pins.join(directory);
        fs::create_dir_all(&path).map_err(|source| KernelError::PinDirectory { path, source })?;
    }
    Ok(())
}

/// Removes an agent's pins, links first: **enforcement ends here**. What is not there is no error.
///
/// # Errors
/// When an entry exists and cannot be removed.
pub fn clear_pins(pins: &Path) -> io::Result<()> {
    for directory in ["links", "maps"] {
        let directory = pins.join(directory);
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    absent_is_fine(fs::remove_file(entry?.path()))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        absent_is_fine(fs::remove_dir(&directory))?;
    }
    absent_is_fine(fs::remove_dir(pins))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Cookies of the TCP sockets that may hold refused data, read from an agent's pins: they are to be
/// destroyed before [`clear_pins`], or the kernel delivers what the hooks held back.
///
/// # Errors
/// When the pinned map cannot be opened or read.
pub fn refused_sockets(pins: &Path) -> Result<HashSet<u64>, KernelError> {
    let data = MapData::from_pin(map_path(pins, maps::REFUSED))
        .map_err(|source| KernelError::Map { map: maps::REFUSED, source })?;
    read_refused(&Map::HashMap(data))
}

pub(super) fn read_refused(map: &Map) -> Result<HashSet<u64>, KernelError> {
    let failed = |source| KernelError::Map { map: maps::REFUSED, source };
    HashMap::<_, u64, u32>::try_from(map).map_err(failed)?.keys().map(|key| key.map_err(failed)).collect()
}
