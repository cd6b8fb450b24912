//! Kernel modules: loading them by name, alias or stage, from the indices beside them (kmod's text formats).
//!
//! ```text
//! /usr/lib/modules/<uname -r>/
//!   modules.dep     kernel/x.ko: kernel/needed-last.ko kernel/needed-first.ko
//!   modules.alias   alias PATTERN NAME
//!   modules.load    STAGE NAME      in the order of loading
//! ```

use std::{collections::HashMap, fs, path::PathBuf, process::ExitCode};

use crate::{GuestError, say, sys};

struct Index {
    folder: PathBuf,
    dep: HashMap<String, (String, Vec<String>)>,
}

/// Loads the modules of a stage; one that fails is said and skipped.
pub fn load_stage(stage: &str) {
    let Ok(index) = Index::open() else { return say("the kernel's modules have no index") };
    let list = fs::read_to_string(index.folder.join("modules.load")).unwrap_or_default();
    for name in list.lines().filter_map(|l| l.strip_prefix(stage)).map(str::trim) {
        if let Err(error) = index.load(name) {
            say(error);
        }
    }
}

/// Loads one by its name.
pub fn load(name: &str) -> Result<(), GuestError> {
    Index::open()?.load(name)
}

/// `modprobe [-q] [--] NAME...`: the kernel's own way to ask for a module.
pub fn modprobe(args: impl Iterator<Item = String>) -> ExitCode {
    let names: Vec<String> = args.filter(|a| !a.starts_with('-')).collect();
    // The kernel asks with one name; more words would be the module's parameters.
    let Some(name) = names.first() else { return ExitCode::from(2) };
    let load = || {
        let index = Index::open()?;
        let wanted = normal(name);
        let found = if index.dep.contains_key(&wanted) { vec![wanted] } else { index.aliases(name)? };
        if found.is_empty() {
            return Err(GuestError::Invalid(format!("no module {name}")));
        }
        found.iter().try_for_each(|name| index.load(name))
    };
    match load() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // the kernel asks for much that it can do without
    }
}

impl Index {
    fn open() -> Result<Self, GuestError> {
        let version = fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_err(GuestError::io("reading", "osrelease"))?;
        let folder = PathBuf::from("/usr/lib/modules").join(version.trim());
        let text = fs::read_to_string(folder.join("modules.dep"))
            .map_err(GuestError::io("reading", folder.join("modules.dep").display().to_string()))?;
        Ok(Self { folder, dep: parse_dep(&text) })
    }

    fn load(&self, name: &str) -> Result<(), GuestError> {
        let Some((path, needed)) = self.dep.get(&normal(name)) else {
            return Err(GuestError::Invalid(format!("no module {name}")));
        };
        for path in needed.iter().rev().chain([path]) {
            sys::load_module(&self.folder.join(path))?;
        }
        Ok(())
    }

    fn aliases(&self, asked: &str) -> Result<Vec<String>, GuestError> {
        let text = fs::read_to_string(self.folder.join("modules.alias"))
            .map_err(GuestError::io("reading", "modules.alias"))?;
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix("alias ")?.split_once(' '))
            .filter(|(pattern, _)| glob(normal(pattern).as_bytes(), normal(asked).as_bytes()))
            .map(|(_, name)| name.to_owned())
            .collect())
    }
}

fn parse_dep(text: &str) -> HashMap<String, (String, Vec<String>)> {
    let mut dep = HashMap::new();
    for (path, needed) in text.lines().filter_map(|line| line.split_once(':')) {
        let name = path.rsplit('/').next().and_then(|f| f.split('.').next()).unwrap_or_default();
        dep.insert(normal(name), (path.to_owned(), needed.split_whitespace().map(str::to_owned).collect()));
    }
    dep
}

/// Modules are the same whether written with `-` or `_`.
fn normal(name: &str) -> String {
    let mut bracket = false;
    name.chars()
        .map(|c| {
            bracket = (bracket || c == '[') && c != ']';
            if c == '-' && !bracket { '_' } else { c }
        })
        .collect()
}

/// fnmatch(3) as far as aliases use it: `*`, `?`, `[a-z]`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|n| glob(rest, &text[n..])),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((b'[', rest)), Some((c, text))) => {
            let Some(end) = rest.iter().position(|b| *b == b']') else { return false };
            in_set(&rest[..end], *c) && glob(&rest[end + 1..], text)
        }
        (Some((p, rest)), Some((c, text))) => p == c && glob(rest, text),
        _ => false,
    }
}

fn in_set(set: &[u8], c: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set.get(at + 1) == Some(&b'-') && at + 2 < set.len() {
            if (set[at]..=set[at + 2]).contains(&c) {
                return true;
            }
            at += 3;
        } else {
            if set[at] == c {
                return true;
            }
            at += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_match_as_the_kernel_asks() {
        let is = |p: &str, t: &str| glob(normal(p).as_bytes(), normal(t).as_bytes());
        assert!(is("fs-overlay", "fs-overlay"));
        assert!(is("virtio:d00000001v*", "virtio:d00000001v00001AF4"));
        assert!(is("net-pf-16-proto-16-family-wireguard", "net-pf-16-proto-16-family-wireguard"));
        assert!(is("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00001d00002sv3sd4bc01sc06i01x"));
        assert!(is("x[0-4][a]", "x3a") && !is("x[0-4]", "x5"));
        assert!(!is("fs-overlay", "fs-overlayfs"));
    }

    #[test]
    fn dependencies_come_first() {
        let dep =
            parse_dep("kernel/nft_ct.ko: kernel/nf_tables.ko kernel/nfnetlink.ko\nkernel/nf_tables.ko:\n");
        assert_eq!(dep["nft_ct"].1, ["kernel/nf_tables.ko", "kernel/nfnetlink.ko"]);
        assert!(dep["nf_tables"].1.is_empty());
    }
}
