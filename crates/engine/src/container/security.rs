//! `--security-opt`: what is said of it, and the filter of system calls that follows.

use std::sync::Arc;

use oci_spec::runtime::{Capability, LinuxSeccomp};
use runtime::seccomp::Kernel;

use super::config::HostConfig;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::truth::truth;

/// The container's filter of system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter<'a> {
    /// Docker's default profile; none for a privileged container.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile of the person's own, in Docker's format: for a privileged container too.
    Own(&'a str),
}

/// What `--security-opt` says; of options given twice the last one holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Security<'a> {
    /// The filter of system calls.
    pub filter: Filter<'a>,
    /// No program gains rights, whatever its set-id bits.
    pub no_new_privileges: bool,
    /// A profile of AppArmor that the kernel would have to know.
    pub apparmor: Option<&'a str>,
}

impl<'a> Security<'a> {
    /// Reads the options; what is none is refused in Docker's words.
    pub fn of(host: &'a HostConfig) -> Result<Self> {
        let mut security = Self::default();
        for option in host.security_opt.iter().flatten() {
            if option == "no-new-privileges" {
                security.no_new_privileges = true;
                continue;
            }
            let separator = if option.contains('=') { '=' } else { ':' };
            let Some((key, value)) = option.split_once(separator) else {
                return Err(Error::invalid(format!("invalid --security-opt 1: {option:?}")));
            };
            match (key, value) {
                ("seccomp", "unconfined") => security.filter = Filter::Unconfined,
                ("seccomp", "" | "builtin") => security.filter = Filter::Default,
                ("seccomp", profile) => security.filter = Filter::Own(profile),
                ("apparmor", "" | "unconfined") => security.apparmor = None,
                ("apparmor", profile) => security.apparmor = Some(profile),
                // SELinux is in no kernel that this engine looks after: there is nothing to label.
                ("label", _) => {}
                ("no-new-privileges", word) => match truth(word) {
                    Some(said) => security.no_new_privileges = said,
                    None => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
                },
                _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
            }
        }
        Ok(security)
    }
}

/// The profile of a container with these capabilities (its bounding set), for a runtime that takes profiles.
pub fn profile(host: &HostConfig, bounding: &[Capability]) -> Result<Option<LinuxSeccomp>> {
    let resolved = match Security::of(host)?.filter {
        Filter::Unconfined => return Ok(None),
        Filter::Default if host.privileged => return Ok(None),
        Filter::Default => runtime::seccomp::docker_default(bounding, Kernel::running()),
        Filter::Own(json) => runtime::seccomp::from_docker_json(json.as_bytes(), bounding, Kernel::running()),
    };
    resolved.map(Some).map_err(refused)
}

/// The same as the program that the kernel runs, compiled once for each profile and set of capabilities.
pub fn program(engine: &Engine, host: &HostConfig, bounding: &[Capability]) -> Result<Option<Arc<[u8]>>> {
    let kept = match Security::of(host)?.filter {
        Filter::Default if !host.privileged => Some(format!("{bounding:?}")),
        // A person's own profile is one container's: keeping each would be keeping them for good.
        _ => None,
    };
    let cache = || engine.seccomp.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(program) = kept.as_ref().and_then(|key| cache().get(key).cloned()) {
        return Ok(Some(program));
    }
    let Some(profile) = profile(host, bounding)? else { return Ok(None) };
    let program: Arc<[u8]> = Arc::from(runtime::seccomp::compile(&profile).map_err(refused)?);
    if let Some(key) = kept {
        cache().insert(key, program.clone());
    }
    Ok(Some(program))
}

fn refused(e: runtime::Error) -> Error {
    Error::invalid(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(options: &[&str]) -> HostConfig {
        let options = options.iter().map(|&o| o.to_owned()).collect();
        HostConfig { security_opt: Some(options), ..HostConfig::default() }
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        let said = host(&["no-new-privileges:true", "seccomp:unconfined", "label=disable", "apparmor=mine"]);
        let security = Security::of(&said).unwrap();
        assert_eq!(security.filter, Filter::Unconfined);
        assert!(security.no_new_privileges);
        assert_eq!(security.apparmor, Some("mine"));
        let said =
            host(&["no-new-privileges", "no-new-privileges=0", "seccomp=unconfined", "seccomp={\"a\":1}"]);
        let security = Security::of(&said).unwrap();
        assert_eq!(security.filter, Filter::Own("{\"a\":1}"), "the last one holds, colons and all");
        assert!(!security.no_new_privileges);
        for (bad, words) in [
            ("nope", "invalid --security-opt 1: \"nope\""),
            ("nope=1", "invalid --security-opt 2: \"nope=1\""),
            ("no-new-privileges=maybe", "invalid --security-opt 2: \"no-new-privileges=maybe\""),
        ] {
            assert_eq!(Security::of(&host(&[bad])).unwrap_err().message, words);
        }
    }

    #[test]
    fn a_profile_of_ones_own_holds_for_a_privileged_container_too() {
        let own = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#;
        let privileged = |options: &[&str]| HostConfig { privileged: true, ..host(options) };
        assert!(profile(&privileged(&[]), &[]).unwrap().is_none());
        assert!(profile(&privileged(&[own]), &[]).unwrap().is_some());
        assert!(profile(&host(&[]), &[]).unwrap().is_some());
        assert!(profile(&host(&["seccomp=unconfined"]), &[]).unwrap().is_none());
        assert!(profile(&host(&["seccomp={"]), &[]).is_err());
    }
}
