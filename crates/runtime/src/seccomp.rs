//! Seccomp: Docker's profiles, and a compiler from a profile to the BPF program that the kernel runs.
//!
//! No libseccomp: it walks its rules one after another (a container's every system call pays for that) and takes tens of
//! milliseconds to compile Docker's profile. Here each architecture's numbers become a binary search:
//!
//! ```text
//!   architecture? --unknown--> kill
//!     number above every one the profile names? --> ENOSYS   (a C library then falls back to an older call, as runc)
//!     binary search over ranges of equal outcome --> allow | errno | ... | argument conditions, first match wins
//! ```
//! A container's filter is compiled once per profile and set of capabilities; callers cache the program.

mod compiler;
mod syscalls;

use crate::error::Error;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

pub use compiler::compile;

/// The kernel's version, for rules that ask for a least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    /// The running kernel's.
    pub fn running() -> Kernel {
        let name = rustix::system::uname();
        Kernel::parse(&name.release().to_string_lossy()).unwrap_or(Kernel(0, 0))
    }

    fn parse(text: &str) -> Option<Kernel> {
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        Some(Kernel(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// A profile in Docker's format, as `--security-opt seccomp=FILE` takes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerProfile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Docker's default profile for a container with these capabilities (its bounding set).
pub fn docker_default(capabilities: &[Capability], kernel: Kernel) -> Result<LinuxSeccomp, Error> {
    from_docker_json(include_bytes!("seccomp/default.json"), capabilities, kernel)
}

/// A profile in Docker's format, resolved for this machine's architecture, the capabilities and the kernel: first a
/// rule's excludes decide, then its includes.
pub fn from_docker_json(
    json: &[u8],
    capabilities: &[Capability],
    kernel: Kernel,
) -> Result<LinuxSeccomp, Error> {
    let profile: DockerProfile = serde_json::from_slice(json)
        .map_err(|e| Error::Invalid(format!("Decoding seccomp profile failed: {e}")))?;
    let (native, go_arch) = native();
    let architectures = match (profile.architectures.filter(|a| !a.is_empty()), profile.arch_map) {
        (Some(_), Some(map)) if !map.is_empty() => {
            return Err(Error::Invalid(
                "both 'architectures' and 'archMap' are specified in the seccomp profile".into(),
            ));
        }
        (Some(list), _) => list,
        (None, map) => {
            let mut list = vec![native];
            for entry in map.into_iter().flatten().filter(|m| m.architecture == native) {
                list.extend(entry.sub_architectures.into_iter().flatten());
            }
            list
        }
    };
    let has = |name: &String| {
        capabilities.iter().any(|c| {
            let ours = c.to_string();
            let ours = ours.strip_prefix("CAP_").unwrap_or(&ours);
            ours == name.strip_prefix("CAP_").unwrap_or(name)
        })
    };
    let at_least = |text: &String| Kernel::parse(text).is_some_and(|least| kernel >= least);
    let mut rules: Vec<LinuxSyscall> = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        let excludes = rule.excludes.unwrap_or_default();
        if excludes.arches.iter().flatten().any(|a| a == go_arch)
            || excludes.caps.iter().flatten().any(has)
            || excludes.min_kernel.as_ref().is_some_and(at_least)
        {
            continue;
        }
        let includes = rule.includes.unwrap_or_default();
        if includes.arches.as_ref().is_some_and(|list| !list.is_empty() && !list.iter().any(|a| a == go_arch))
            || !includes.caps.iter().flatten().all(has)
            || includes.min_kernel.as_ref().is_some_and(|least| !at_least(least))
        {
            continue;
        }
        let names: Vec<String> = rule.name.into_iter().chain(rule.names.into_iter().flatten()).collect();
        let mut syscall = LinuxSyscallBuilder::default().names(names).action(rule.action);
        if let Some(errno) = rule.errno_ret {
            syscall = syscall.errno_ret(errno);
        }
        if let Some(args) = rule.args.filter(|a| !a.is_empty()) {
            syscall = syscall.args(args);
        }
        rules.push(syscall.build().map_err(|e| Error::Invalid(e.to_string()))?);
    }
    let mut built = LinuxSeccompBuilder::default()
        .default_action(profile.default_action)
        .architectures(architectures)
        .syscalls(rules);
    if let Some(errno) = profile.default_errno_ret {
        built = built.default_errno_ret(errno);
    }
    built.build().map_err(|e| Error::Invalid(e.to_string()))
}

/// This machine's architecture, as seccomp and as Go name it.
fn native() -> (Arch, &'static str) {
    if cfg!(target_arch = "aarch64") {
        (Arch::ScmpArchAarch64, "arm64")
    } else if cfg!(target_arch = "riscv64") {
        (Arch::ScmpArchRiscv64, "riscv64")
    } else {
        (Arch::ScmpArchX86_64, "amd64")
    }
}

#[cfg(test)]
mod tests;
