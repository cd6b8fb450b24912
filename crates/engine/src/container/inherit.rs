//! What a configuration takes from the one it stands on: a container's from its image, a committed image's from its
//! container. Docker's rules are the same for both.

use std::collections::BTreeSet;

use super::config::{Config, Healthcheck};
use super::list::List;

impl Config {
    /// Fills in what nothing is said about. Lists and maps are joined, what is here wins by its name.
    pub fn inherit(&mut self, base: &Config) {
        let text = |own: &mut String, base: &String| {
            if own.is_empty() {
                own.clone_from(base);
            }
        };
        text(&mut self.user, &base.user);
        text(&mut self.working_dir, &base.working_dir);
        text(&mut self.stop_signal, &base.stop_signal);
        for (port, set) in &base.exposed_ports {
            self.exposed_ports.entry(port.clone()).or_insert(*set);
        }
        for (path, set) in &base.volumes {
            self.volumes.entry(path.clone()).or_insert(*set);
        }
        for (key, value) in &base.labels {
            self.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let named: BTreeSet<String> = self.env.iter().map(|e| env_name(e).to_owned()).collect();
        self.env.extend(base.env.iter().filter(|e| !named.contains(env_name(e))).cloned());
        // A command belongs to its entrypoint: with another entrypoint it is dropped.
        if self.entrypoint.as_ref().is_none_or(Vec::is_empty) {
            if self.cmd.as_ref().is_none_or(Vec::is_empty) {
                self.cmd.clone_from(&base.cmd);
            }
            if self.entrypoint.is_none() {
                self.entrypoint.clone_from(&base.entrypoint);
            }
        }
        match (&mut self.healthcheck, &base.healthcheck) {
            (None, base) => self.healthcheck.clone_from(base),
            (Some(own), Some(base)) => own.inherit(base),
            (Some(_), None) => {}
        }
        if self.on_build.is_none() {
            self.on_build.clone_from(&base.on_build);
        }
        if self.shell.is_none() {
            self.shell.clone_from(&base.shell);
        }
    }
}

impl Healthcheck {
    fn inherit(&mut self, base: &Healthcheck) {
        if self.test.is_empty() {
            self.test.clone_from(&base.test);
        }
        let or = |own: &mut i64, base: i64| *own = if *own == 0 { base } else { *own };
        or(&mut self.interval, base.interval);
        or(&mut self.timeout, base.timeout);
        or(&mut self.start_period, base.start_period);
        or(&mut self.start_interval, base.start_interval);
        or(&mut self.retries, base.retries);
    }
}

/// What containers of an image start with. Instructions and shell are for builds on top of it.
impl From<&image::ImageConfig> for Config {
    fn from(image: &image::ImageConfig) -> Self {
        let set = |names: &[String]| names.iter().map(|n| (n.clone(), Default::default())).collect();
        Self {
            user: image.user.clone(),
            exposed_ports: set(&image.exposed_ports),
            env: if image.env.is_empty() { List::default() } else { image.env.clone().into() },
            cmd: image.cmd.clone(),
            healthcheck: image.healthcheck.clone().and_then(|h| serde_json::from_value(h).ok()),
            volumes: set(&image.volumes),
            working_dir: image.working_dir.clone(),
            entrypoint: image.entrypoint.clone(),
            labels: image.labels.clone(),
            stop_signal: image.stop_signal.clone().unwrap_or_default(),
            ..Self::default()
        }
    }
}

fn env_name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}
