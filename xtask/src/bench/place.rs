//! What `/proc` and `/sys` say of a side's processes: on this machine, or in the guest that the side runs in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::machine::Shell;
use super::sys::listener;

/// Where a side's processes are.
pub enum Place {
    /// On this machine.
    Here,
    /// In a guest.
    Guest {
        /// How its files are read.
        shell: Shell,
        /// Name of the daemon's process.
        daemon: &'static str,
    },
}

/// Resident and proportional memory of a process, kB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// Resident set.
    pub rss: u64,
    /// Proportional set: shared pages divided by their users.
    pub pss: u64,
}

/// What processes have done until now.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// Seconds on a processor, those of threads that have ended among them.
    cpu: f64,
    /// How often each thread gave one up. What a thread did takes its end with it.
    switches: BTreeMap<u32, u64>,
}

impl Activity {
    /// Seconds on a processor since an earlier look.
    pub fn cpu_since(&self, before: &Self) -> f64 {
        self.cpu - before.cpu
    }

    /// How often a processor was given up since an earlier look, by the threads that are there.
    pub fn switches_since(&self, before: &Self) -> u64 {
        let since = |(thread, now): (&u32, &u64)| now - before.switches.get(thread).unwrap_or(&0);
        self.switches.iter().map(since).sum()
    }
}

/// Threads with their context switches, of the `status` files of any number of them.
fn switches(status: &str) -> BTreeMap<u32, u64> {
    let mut all = BTreeMap::new();
    let mut thread = 0;
    for line in status.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let number = || value.trim().parse::<u64>().unwrap_or(0);
        match field {
            "Pid" => thread = number() as u32,
            "voluntary_ctxt_switches" | "nonvoluntary_ctxt_switches" => {
                *all.entry(thread).or_default() += number();
            }
            _ => {}
        }
    }
    all
}

/// A process: its id, name and parent.
struct Process {
    pid: u32,
    name: String,
    parent: u32,
}

/// A line of `/proc/<pid>/stat`. The name stands in brackets and may hold any of them.
fn process(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (pid, name) = head.split_once('(')?;
    let parent = tail.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid: pid.trim().parse().ok()?, name: name.to_owned(), parent })
}

impl Place {
    /// A file's text; `None` when there is none.
    fn read(&self, path: &str) -> Result<Option<String>> {
        match self {
            Self::Here => Ok(fs::read_to_string(path).ok()),
            Self::Guest { shell, .. } => {
                let said = shell.run(&format!("cat {path} 2>/dev/null || echo nothing-there"))?;
                Ok((said.trim_end() != "nothing-there").then_some(said))
            }
        }
    }

    /// `/proc/<pid>/stat` of all processes. In a guest by one short line: its shell takes no long ones.
    fn stats(&self) -> Result<Vec<String>> {
        Ok(match self {
            Self::Here => fs::read_dir("/proc")?
                .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok())
                .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
                .collect(),
            Self::Guest { shell, .. } => {
                shell.run("cat /proc/[0-9]*/stat 2>/dev/null")?.lines().map(str::to_owned).collect()
            }
        })
    }

    fn processes(&self) -> Result<Vec<Process>> {
        Ok(self.stats()?.iter().filter_map(|stat| process(stat)).collect())
    }

    /// A process's parent; `None` when it has ended.
    pub fn parent(&self, pid: u32) -> Result<Option<u32>> {
        Ok(self.read(&format!("/proc/{pid}/stat"))?.and_then(|s| process(&s)).map(|p| p.parent))
    }

    /// Which of these are there still.
    pub fn alive(&self, pids: &[u32]) -> Result<usize> {
        Ok(self.processes()?.iter().filter(|p| pids.contains(&p.pid)).count())
    }

    /// The own processes of the daemon behind `socket`: itself and its children, not what runs containers (shims and
    /// what is below them).
    pub fn daemon(&self, socket: &Path) -> Result<Vec<u32>> {
        let all = self.processes()?;
        let first = match self {
            Self::Here => listener(socket)?,
            Self::Guest { daemon, .. } => {
                let found = all.iter().find(|p| p.name == *daemon);
                found.with_context(|| format!("the guest has no process {daemon}"))?.pid
            }
        };
        let mut found = vec![first];
        let mut next = 0;
        while next < found.len() {
            let parent = found[next];
            // The kernel cuts names at 15 bytes: "containerd-shim".
            found.extend(
                all.iter().filter(|p| p.parent == parent && !p.name.contains("-shim")).map(|p| p.pid),
            );
            next += 1;
        }
        Ok(found)
    }

    /// The parents of processes: of containers' first ones, their shims. Each once.
    pub fn parents(&self, pids: &[u32]) -> Result<Vec<u32>> {
        let all = self.processes()?;
        let parents: BTreeSet<u32> = all.iter().filter(|p| pids.contains(&p.pid)).map(|p| p.parent).collect();
        Ok(parents.into_iter().collect())
    }

    /// A process's memory (`smaps_rollup`); `None` = it has ended.
    pub fn memory(&self, pid: u32) -> Result<Option<Memory>> {
        let Some(text) = self.read(&format!("/proc/{pid}/smaps_rollup"))? else { return Ok(None) };
        let field = |name: &str| {
            text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok())
        };
        Ok(Some(Memory {
            rss: field("Rss:").context("smaps_rollup has Rss")?,
            pss: field("Pss:").context("smaps_rollup has Pss")?,
        }))
    }

    /// Memory of several processes together. The first must be there; of the others, which may be what it started for
    /// a moment, those that still are.
    pub fn memory_of(&self, pids: &[u32]) -> Result<Memory> {
        let first = pids.first().map_or(Ok(None), |pid| self.memory(*pid))?;
        pids.iter().skip(1).try_fold(first.context("the daemon has ended")?, |sum, pid| {
            let one = self.memory(*pid)?.unwrap_or_default();
            Ok(Memory { rss: sum.rss + one.rss, pss: sum.pss + one.pss })
        })
    }

    /// Seconds of processor time that processes have used, to the clock's tick.
    pub fn cpu_seconds(&self, pids: &[u32]) -> Result<f64> {
        /// Ticks a second, on every Linux there is.
        const TICKS: f64 = 100.0;
        let mut found = 0;
        let mut ticks = 0;
        for stat in self.stats()?.iter().filter(|s| process(s).is_some_and(|p| pids.contains(&p.pid))) {
            found += 1;
            let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
            ticks +=
                fields.get(11..13).context("stat")?.iter().filter_map(|f| f.parse::<u64>().ok()).sum::<u64>();
        }
        ensure!(found == pids.len(), "of {} processes {} have ended", pids.len(), pids.len() - found);
        Ok(ticks as f64 / TICKS)
    }

    /// What processes have done so far.
    pub fn activity(&self, pids: &[u32]) -> Result<Activity> {
        let mut status = String::new();
        for pid in pids {
            match self {
                Self::Here => {
                    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                        // A thread may end meanwhile.
                        status += &fs::read_to_string(task.path().join("status")).unwrap_or_default();
                    }
                }
                Self::Guest { shell, .. } => {
                    status += &shell.run(&format!("cat /proc/{pid}/task/*/status 2>/dev/null"))?;
                }
            }
        }
        Ok(Activity { cpu: self.cpu_seconds(pids)?, switches: switches(&status) })
    }

    /// cgroup controllers in which a process has a group of its own, as `v1 memory` and `v2: cpu,...`.
    pub fn controllers(&self, pid: u32) -> Result<String> {
        let text = self.read(&format!("/proc/{pid}/cgroup"))?.context("the container has ended")?;
        // What the reader itself is in is no group that an engine made.
        let own = self.read("/proc/self/cgroup")?.unwrap_or_default();
        let mut found: Vec<String> = Vec::new();
        for line in text.lines().filter(|l| !own.lines().any(|o| o == *l)) {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
            if path == "/" {
                continue;
            }
            if !names.is_empty() {
                found.push(format!("v1 {names}"));
                continue;
            }
            let mut list = String::new();
            for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                if let Some(text) = self.read(&format!("{mount}{path}/cgroup.controllers"))? {
                    list = text.split_whitespace().collect::<Vec<_>>().join(",");
                    break;
                }
            }
            found.push(match list.as_str() {
                "" => "v2 group without controllers".into(),
                list => format!("v2: {list}"),
            });
        }
        found.sort();
        Ok(if found.is_empty() { "none".into() } else { found.join(" ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_parent_of_this_process() {
        let own = std::process::id();
        let memory = Place::Here.memory(own).unwrap().unwrap();
        assert!(memory.rss > 100 && memory.pss <= memory.rss);
        assert_eq!(Place::Here.parent(own).unwrap(), Some(std::os::unix::process::parent_id()));
        assert!(Place::Here.cpu_seconds(&[own]).unwrap() < 1e6);
        let before = Place::Here.activity(&[own]).unwrap();
        assert!(before.switches_since(&Activity::default()) > 0);
        assert!(Place::Here.activity(&[own]).unwrap().cpu_since(&before) >= 0.0);
        assert_eq!(Place::Here.alive(&[own]).unwrap(), 1);
    }

    #[test]
    fn a_thread_that_ends_or_begins_meanwhile_is_no_trouble() {
        let status = |all: &[(u32, u64)]| -> String {
            let one = |(pid, n): &(u32, u64)| {
                format!(
                    "Pid:\t{pid}\nPPid:\t1\nvoluntary_ctxt_switches:\t{n}\nnonvoluntary_ctxt_switches:\t1\n"
                )
            };
            all.iter().map(one).collect()
        };
        let look = |text: &str| Activity { cpu: 0.0, switches: switches(text) };
        let (before, after) = (look(&status(&[(7, 10), (8, 1000)])), look(&status(&[(7, 12), (9, 3)])));
        assert_eq!(after.switches_since(&before), 2 + 4);
    }

    #[test]
    fn a_name_may_hold_brackets() {
        let process = process("12 (a) b (c)) S 7 12 12 0").unwrap();
        assert_eq!((process.pid, process.name.as_str(), process.parent), (12, "a) b (c)", 7));
    }
}
