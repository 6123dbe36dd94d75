//! Links to interfaces, pinned as `tcx-INDEX-{in,out}`.

use std::{fs, io, os::fd::AsFd as _, path::PathBuf};

use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};

use super::TcxError;
use crate::kernel::{Kernel, KernelError, sys};

/// `BPF_LINK_TYPE_TCX` (include/uapi/linux/bpf.h).
const LINK_TYPE_TCX: u32 = 11;

/// A program at one side of an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    program: &'static str,
    interface: u32,
    attach_type: u32,
    side: &'static str,
}

impl Place {
    /// On what comes in by the interface.
    pub(super) const fn ingress(program: &'static str, interface: u32) -> Self {
        Self { program, interface, attach_type: BPF_TCX_INGRESS as u32, side: "in" }
    }

    /// On what goes out by the interface.
    pub(super) const fn egress(program: &'static str, interface: u32) -> Self {
        Self { program, interface, attach_type: BPF_TCX_EGRESS as u32, side: "out" }
    }

    fn file(&self) -> String {
        format!("tcx-{}-{}", self.interface, self.side)
    }
}

/// The index of the interface in the name of a pin.
fn interface_of(file: &str) -> Option<u32> {
    let (index, side) = file.strip_prefix("tcx-")?.split_once('-')?;
    matches!(side, "in" | "out").then(|| index.parse().ok()).flatten()
}

/// The pinned links of one agent, or of the host.
pub(super) struct Links(PathBuf);

impl Links {
    pub(super) const fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Attaches and pins a program; moves a link that is pinned already. `false` if the interface is gone.
    pub(super) fn attach(&self, kernel: &Kernel, place: Place) -> Result<bool, TcxError> {
        let path = self.0.join(place.file());
        let pin = |source| TcxError::Pin { path: path.clone(), source };
        let program = kernel.program(place.program)?;
        match sys::obj_get(&path) {
            Ok(link) => {
                let info = sys::tcx_link(link.as_fd()).map_err(pin)?;
                let fits = info.kind == LINK_TYPE_TCX
                    && info.interface == place.interface
                    && info.attach_type == place.attach_type;
                if fits {
                    if info.program != sys::program_id(program).map_err(pin)? {
                        sys::link_update(link.as_fd(), program).map_err(pin)?;
                    }
                    return Ok(true);
                }
                // Of an interface that is gone.
                fs::remove_file(&path).map_err(pin)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.0)
                    .map_err(|source| KernelError::PinDirectory { path: self.0.clone(), source })?;
            }
            Err(error) => return Err(pin(error)),
        }
        let link = match sys::tcx_link_create(program, place.interface, place.attach_type) {
            Ok(link) => link,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
            Err(source) => {
                let Place { program, interface, .. } = place;
                return Err(TcxError::Attach { program, interface, source });
            }
        };
        sys::obj_pin(link.as_fd(), &path).map_err(pin)?;
        Ok(true)
    }

    /// Whether a pinned link is at the interface still: it does not outlive it, nor pass to another of its index.
    pub(super) fn is_live(&self, interface: u32) -> bool {
        [Place::ingress("", interface), Place::egress("", interface)].iter().any(|place| {
            sys::obj_get(&self.0.join(place.file()))
                .and_then(|link| sys::tcx_link(link.as_fd()))
                .is_ok_and(|link| link.interface == interface)
        })
    }

    /// Detaches from both sides of an interface; it has ended when this returns.
    pub(super) fn detach(&self, interface: u32) -> Result<(), TcxError> {
        for side in ["in", "out"] {
            let path = self.0.join(format!("tcx-{interface}-{side}"));
            // The last reference is dropped here and now, not by the kernel's worker behind the pin.
            let link = sys::obj_get(&path);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(TcxError::Pin { path, source });
                }
                _ => drop(link),
            }
        }
        Ok(())
    }

    /// Detaches everything.
    pub(super) fn clear(&self) -> Result<(), TcxError> {
        self.pinned()?.into_iter().try_for_each(|interface| self.detach(interface))?;
        self.remove_directory()
    }

    /// Removes the directory, unless links of another kind are in it.
    pub(super) fn remove_directory(&self) -> Result<(), TcxError> {
        match fs::remove_dir(&self.0) {
            Err(source)
                if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                Err(TcxError::Pin { path: self.0.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Interfaces with a pinned link, each once.
    pub(super) fn pinned(&self) -> Result<Vec<u32>, TcxError> {
        let pin = |source| TcxError::Pin { path: self.0.clone(), source };
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(pin)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(interface_of(&entry.map_err(pin)?.file_name().to_string_lossy()));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Why a program does not guard the interface `name` as its pin says it does, if so.
    pub(super) fn problem(&self, kernel: &Kernel, place: Place, name: &str) -> Option<String> {
        let path = self.0.join(place.file());
        let looked = sys::obj_get(&path)
            .and_then(|link| sys::tcx_link(link.as_fd()))
            .and_then(|link| Ok((link, kernel.program(place.program).map_err(io::Error::other)?)))
            .and_then(|(link, program)| Ok((link, sys::program_id(program)?)));
        match looked {
            Ok((link, wanted))
                if link.kind == LINK_TYPE_TCX
                    && link.interface == place.interface
                    && link.attach_type == place.attach_type
                    && link.program == wanted =>
            {
                None
            }
            Ok((link, wanted)) => Some(format!(
                "{name}: the pinned link runs program {} on interface {} instead of {wanted} on {}",
                link.program, link.interface, place.interface
            )),
            Err(error) => Some(format!("{name}: {} is not attached ({error})", place.program)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_their_interface() {
        assert_eq!(interface_of(&Place::ingress("p", 7).file()), Some(7));
        assert_eq!(interface_of(&Place::egress("p", 4_294_967_295).file()), Some(u32::MAX));
        for other in ["an_connect4", "tcx-7", "tcx--in", "tcx-7-up", "tcx-x-in"] {
            assert_eq!(interface_of(other), None, "{other}");
        }
    }
}
