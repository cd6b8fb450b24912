//! The guest's kernel modules: which travel, in which order they load, and the indices `coracle-guest` reads as
//! `/sbin/modprobe` (kmod's own text formats, `modules.dep` and `modules.alias`, and `modules.load`: `STAGE NAME`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::debian::Tree;

/// When a module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the root is mounted.
    Initrd,
    /// When the root is there.
    Start,
    /// Once the engine is up.
    Later,
    /// When somebody asks.
    Ship,
}

struct Module {
    data: Vec<u8>,
    depends: Vec<String>,
    aliases: Vec<String>,
}

/// The modules chosen from a kernel's package.
pub struct Modules {
    /// The kernel's version, as `uname -r` says it.
    pub version: String,
    modules: BTreeMap<String, Module>,
    stages: Vec<(Stage, String)>,
}

impl Modules {
    /// Chooses by the list at `list` from an unpacked kernel package.
    pub fn of(kernel: &Tree, list: &Path) -> Result<Self> {
        let folder = fs::read_dir(kernel.file("/usr/lib/modules"))?
            .next()
            .context("the kernel's package holds no modules")??
            .path();
        let version = folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let mut files = BTreeMap::new();
        find(&folder, &mut files)?;
        let mut chosen = Self { version, modules: BTreeMap::new(), stages: Vec::new() };
        for line in fs::read_to_string(list)?.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty())
        {
            let mut words = line.split_whitespace();
            let stage = match words.next() {
                Some("initrd") => Stage::Initrd,
                Some("start") => Stage::Start,
                Some("later") => Stage::Later,
                Some("ship") => Stage::Ship,
                _ => bail!("{}: not understood: {line}", list.display()),
            };
            let name = words.next().context("a module's name is missing")?;
            let (name, optional) = name.strip_prefix('?').map_or((name, false), |name| (name, true));
            let name = name.replace('-', "_");
            let names: Vec<String> = match name.strip_suffix('*') {
                Some(prefix) => files.keys().filter(|n| n.starts_with(prefix)).cloned().collect(),
                None if files.contains_key(&name) => vec![name],
                None if optional => continue,
                None => bail!("the kernel {} has no module {name}", chosen.version),
            };
            for name in names {
                chosen.take(&name, stage, &files)?;
            }
        }
        Ok(chosen)
    }

    /// Names and contents of a stage's modules, each after those it depends on.
    pub fn stage(&self, stage: Stage) -> impl Iterator<Item = (&str, &[u8])> {
        self.stages
            .iter()
            .filter(move |(s, _)| *s == stage)
            .map(|(_, name)| (name.as_str(), self.modules[name].data.as_slice()))
    }

    /// Writes modules and indices below `folder` (`/usr/lib/modules`).
    pub fn put(&self, folder: &Path) -> Result<()> {
        let folder = folder.join(&self.version);
        fs::create_dir_all(folder.join("kernel"))?;
        let (mut dep, mut alias, mut load) = (String::new(), String::new(), String::new());
        for (name, module) in &self.modules {
            fs::write(folder.join(format!("kernel/{name}.ko")), &module.data)?;
            let depends: Vec<String> = self.order(name).iter().map(|n| format!(" kernel/{n}.ko")).collect();
            dep.push_str(&format!("kernel/{name}.ko:{}\n", depends.concat()));
            for pattern in &module.aliases {
                alias.push_str(&format!("alias {pattern} {name}\n"));
            }
        }
        for (stage, name) in &self.stages {
            match stage {
                Stage::Start => load.push_str(&format!("start {name}\n")),
                Stage::Later => load.push_str(&format!("later {name}\n")),
                Stage::Initrd | Stage::Ship => {}
            }
        }
        fs::write(folder.join("modules.dep"), dep)?;
        fs::write(folder.join("modules.alias"), alias)?;
        fs::write(folder.join("modules.load"), load)?;
        Ok(())
    }

    fn take(&mut self, name: &str, stage: Stage, files: &BTreeMap<String, PathBuf>) -> Result<()> {
        if let Some(at) = self.stages.iter().position(|(_, n)| n == name) {
            // Listed twice: the earlier stage holds.
            if self.stages[at].0 <= stage {
                return Ok(());
            }
            self.stages.remove(at);
        }
        if !self.modules.contains_key(name) {
            let Some(path) = files.get(name) else { return Ok(()) }; // built in
            self.modules.insert(name.to_owned(), read(path)?);
        }
        for needed in self.modules[name].depends.clone() {
            self.take(&needed, stage, files)?;
        }
        self.stages.push((stage, name.to_owned()));
        Ok(())
    }

    /// All that a module depends on, the nearest first (as in `modules.dep`).
    fn order(&self, name: &str) -> Vec<String> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        self.walk(name, &mut seen, &mut order);
        order.pop();
        order.reverse();
        order
    }

    fn walk(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let Some(module) = self.modules.get(name) else { return };
        if seen.insert(name.to_owned()) {
            for needed in &module.depends {
                self.walk(needed, seen, order);
            }
            order.push(name.to_owned());
        }
    }
}

fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, files)?;
        } else if let Some((name, _)) =
            path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once(".ko"))
        {
            files.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Module> {
    let bytes = fs::read(path)?;
    let data = if path.extension().is_some_and(|e| e == "xz") {
        let mut data = Vec::new();
        lzma_rs::xz_decompress(&mut &bytes[..], &mut data)
            .map_err(|e| anyhow::anyhow!("{} could not be unpacked: {e:?}", path.display()))?;
        data
    } else {
        bytes
    };
    let elf = goblin::elf::Elf::parse(&data).with_context(|| format!("{} is no ELF file", path.display()))?;
    let section = elf
        .section_headers
        .iter()
        .find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(".modinfo"))
        .and_then(|s| data.get(s.file_range()?))
        .with_context(|| format!("{} has no .modinfo", path.display()))?;
    let (mut depends, mut aliases) = (Vec::new(), Vec::new());
    for entry in section.split(|b| *b == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("depends", names)) => {
                depends.extend(names.split(',').filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")));
            }
            Some(("alias", pattern)) => aliases.push(pattern.to_owned()),
            _ => {}
        }
    }
    // libcrc32c names no dependency but asks for an algorithm by its name: softdep=pre: crc32c.
    Ok(Module { data, depends, aliases })
}
