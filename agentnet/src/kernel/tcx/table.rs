//! The maps that say whose an interface and a cgroup are.

use std::io;

use agentnet_common::abi::{Visitor, maps};
use aya::maps::HashMap;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::TcxError;
use crate::kernel::{Kernel, KernelError, sys};

fn failed(map: &'static str) -> impl FnOnce(io::Error) -> TcxError {
    move |source| TcxError::Map { map, source }
}

/// Writes one element.
pub(super) fn write<K: IntoBytes + Immutable, V: IntoBytes + Immutable>(
    kernel: &Kernel,
    map: &'static str,
    key: &K,
    value: &V,
) -> Result<(), TcxError> {
    sys::map_update(kernel.map_fd(map)?, key, value).map_err(failed(map))
}

/// Reads one element, if it is there.
pub(super) fn read<K: IntoBytes + Immutable, V: FromBytes + IntoBytes + KnownLayout + Immutable>(
    kernel: &Kernel,
    map: &'static str,
    key: &K,
) -> Result<Option<V>, TcxError> {
    absent_is_none(sys::map_lookup(kernel.map_fd(map)?, key)).map_err(failed(map))
}

/// Deletes one element, if it is there.
pub(super) fn delete<K: IntoBytes + Immutable>(
    kernel: &Kernel,
    map: &'static str,
    key: &K,
) -> Result<(), TcxError> {
    absent_is_none(sys::map_delete(kernel.map_fd(map)?, key)).map(drop).map_err(failed(map))
}

/// The cgroups of agents that live on the host, with the numbers of the agents.
pub(super) fn agents_on_host(kernel: &Kernel) -> Result<Vec<(u64, u32)>, TcxError> {
    let failed = |source| KernelError::Map { map: maps::HOSTCG, source };
    let agents = HashMap::<_, u64, u32>::try_from(kernel.map(maps::HOSTCG)?).map_err(failed)?;
    Ok(agents.iter().collect::<Result<_, _>>().map_err(failed)?)
}

/// Deletes who came to an agent: the next one of its number must not answer them.
pub(super) fn forget_visitors(kernel: &Kernel, agent: u32) -> Result<(), TcxError> {
    let failed = |source| KernelError::Map { map: maps::VISITORS, source };
    let visitors = HashMap::<_, Visitor, u64>::try_from(kernel.map(maps::VISITORS)?).map_err(failed)?;
    let keys: Vec<Visitor> = visitors.keys().collect::<Result<_, _>>().map_err(failed)?;
    keys.iter()
        .filter(|visitor| visitor.agent == agent)
        .try_for_each(|visitor| delete(kernel, maps::VISITORS, visitor))
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
