//! What containers use, sampled once a second for whoever watches.
//!
//! One task samples all containers that somebody watches, whatever the number of readers, and ends with the last of
//! them. A reader that is slow skips samples.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{Handle, Status};
use crate::engine::Engine;

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// Packets and bytes of one network interface, since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent: the same.
    pub sent: [u64; 4],
}

/// What a container has used at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: SystemTime,
    /// Its group's counters; `None`: it does not run.
    pub used: Option<runtime::Stats>,
    /// Its own network interfaces, without loopback.
    pub interfaces: Vec<Interface>,
    /// CPU time of the whole machine, idle included, nanoseconds.
    pub system_cpu: u64,
    /// Processors that are on.
    pub cpus: u32,
}

/// CPU time of the machine, nanoseconds, and its processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Machine {
    cpu: u64,
    cpus: u32,
}

impl Machine {
    fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// As dockerd computes it: the first seven columns of the first line, in ticks of a hundredth second.
    fn parse(text: &str) -> Self {
        let mut machine = Self::default();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("cpu") else { break };
            match rest.strip_prefix(' ') {
                Some(numbers) => {
                    let ticks = numbers.split_whitespace().take(7).filter_map(|n| n.parse::<u64>().ok());
                    machine.cpu = ticks.sum::<u64>().saturating_mul(10_000_000);
                }
                None => machine.cpus += 1,
            }
        }
        machine
    }
}

/// `/proc/PID/net/dev`.
fn interfaces(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let at = |i: usize| n.get(i).copied().unwrap_or(0);
        let name = name.trim();
        (name != "lo" && n.len() >= 12).then(|| Interface {
            name: name.to_owned(),
            received: [at(0), at(1), at(2), at(3)],
            sent: [at(8), at(9), at(10), at(11)],
        })
    };
    text.lines().filter_map(line).collect()
}

/// Reads the group of one run of one container. Its files stay open, so a new run has a new one.
struct Meter {
    pid: u32,
    group: runtime::Meter,
}

impl Meter {
    /// How many may stay open: theirs are at most half of the files that this process may have.
    fn kept() -> usize {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        files / 2 / runtime::Meter::FILES
    }
}

/// What a container has used until now. Files of the run before are closed, also when it runs no more.
fn sample(handle: &Handle, meter: &mut Option<Meter>, machine: Machine) -> Sample {
    let view = handle.view();
    let (used, interfaces) = match &view.status {
        Status::Running { container, .. } => {
            let same = meter.take_if(|m| m.pid == container.pid());
            let new = || Meter { pid: container.pid(), group: container.meter() };
            let own = !view.record.networks.contains_key("host")
                && !super::links::shares_network(&view.record.host);
            // Not kept open: it would keep the network of a container that has ended, with all addresses in it.
            let text =
                own.then(|| std::fs::read_to_string(format!("/proc/{}/net/dev", container.pid())).ok());
            let used = meter.insert(same.unwrap_or_else(new)).group.read();
            (Some(used), interfaces(&text.flatten().unwrap_or_default()))
        }
        _ => {
            *meter = None;
            (None, Vec::new())
        }
    };
    Sample { at: SystemTime::now(), used, interfaces, system_cpu: machine.cpu, cpus: machine.cpus }
}

/// One sample, now.
pub fn once(handle: &Handle) -> Sample {
    sample(handle, &mut None, Machine::read())
}

/// Samples as they come; `None` before the first. Closed when the container is gone.
pub type Samples = watch::Receiver<Option<Arc<Sample>>>;

/// Who is watched.
#[derive(Default)]
pub struct Sampler {
    watched: Mutex<HashMap<String, Watched>>,
}

struct Watched {
    handle: Handle,
    samples: watch::Sender<Option<Arc<Sample>>>,
}

impl Sampler {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Samples of a container from now on.
    pub fn watch(engine: &Arc<Engine>, handle: &Handle) -> Samples {
        let id = handle.view().record.id.clone();
        let mut watched = engine.sampler.lock();
        let idle = watched.is_empty();
        let entry = watched
            .entry(id)
            .or_insert_with(|| Watched { handle: handle.clone(), samples: watch::channel(None).0 });
        let mut samples = entry.samples.subscribe();
        samples.mark_unchanged();
        if idle {
            let engine = engine.clone();
            tokio::spawn(async move { engine.sampler.run().await });
        }
        samples
    }

    async fn run(&self) {
        let mut clock = tokio::time::interval(PERIOD);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut meters: HashMap<String, Option<Meter>> = HashMap::new();
        let kept = Meter::kept();
        loop {
            clock.tick().await;
            let handles: Vec<(String, Handle)> = {
                let mut watched = self.lock();
                watched.retain(|_, w| {
                    w.samples.receiver_count() > 0 && !matches!(w.handle.view().status, Status::Removed)
                });
                if watched.is_empty() {
                    return;
                }
                meters.retain(|id, _| watched.contains_key(id));
                watched.iter().map(|(id, w)| (id.clone(), w.handle.clone())).collect()
            };
            let machine = Machine::read();
            for (id, handle) in handles {
                let sample = Arc::new(match meters.len() < kept || meters.contains_key(&id) {
                    true => sample(&handle, meters.entry(id.clone()).or_default(), machine),
                    false => sample(&handle, &mut None, machine),
                });
                if let Some(watched) = self.lock().get(&id) {
                    watched.samples.send_replace(Some(sample));
                }
                // A hundred containers are a few milliseconds: others go first.
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_counted_as_dockerd_counts_it() {
        let text = "cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n";
        assert_eq!(Machine::parse(text), Machine { cpu: 280_000_000, cpus: 2 });
    }

    #[test]
    fn interfaces_are_counted_without_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let eth0 = Interface { name: "eth0".into(), received: [1, 2, 3, 4], sent: [5, 6, 7, 8] };
        assert_eq!(interfaces(text), [eth0]);
    }
}
