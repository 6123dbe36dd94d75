//! Policies as commands name them.

use std::io::Write as _;

use crate::{
    agent::resolv,
    control::protocol::PolicySource,
    exit::{OWN_FAILURE, WRONG_USAGE},
    policy::{Policy, diagnostic::Diagnostics, is_path},
};

/// The policy that the user calls `policy`, read with the user's rights. What is wrong with it has been printed,
/// as JSON lines or as text.
///
/// # Errors
/// With the exit code, when the user knows why.
pub(super) fn source(policy: &str, json: bool) -> Result<PolicySource, u8> {
    let (host, _) = resolv::this_host().map_err(|error| {
        super::complain(&format!("cannot list the addresses of this host: {error}"));
        OWN_FAILURE
    })?;
    let show = |problems: &Diagnostics| {
        let text = if json { problems.json_lines() } else { format!("{}\n", problems.render(true)) };
        // Without a standard error there is nobody to tell; anstream takes colours away where they do not fit.
        let _ = anstream::stderr().write_all(text.as_bytes());
    };
    let loaded = Policy::load(policy, &host).map_err(|problems| {
        show(&problems);
        WRONG_USAGE
    })?;
    if !loaded.warnings.is_empty() {
        show(&loaded.warnings);
    }
    Ok(PolicySource {
        name: (!is_path(policy)).then(|| policy.to_owned()),
        file: loaded.file().to_owned(),
        text: loaded.text().to_owned(),
    })
}
