//! `docker top`: what ps(1) would say of a container's processes, read from /proc by ourselves.
//!
//! dockerd runs the host's `ps` with the user's options and picks the container's lines. A guest has no `ps`; so the
//! options that people give it are understood here (procps' grammar: `-ef`, `aux`, `-o pid,comm`, ...), and any other is
//! refused by its name. Which processes are selected is not up to the options: the container's always are.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// What one column shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Pid,
    Ppid,
    Pgid,
    Sid,
    Uid,
    Gid,
    /// The effective user's name.
    User,
    Group,
    /// The program's name.
    Comm,
    /// The whole command line.
    Args,
    /// `R`, `S`, ...
    State,
    /// The state with BSD's flags: `Ss`, `R+`.
    Stat,
    Tty,
    /// CPU time as `hh:mm:ss`.
    Time,
    /// CPU time as BSD has it: `m:ss`.
    BsdTime,
    Elapsed,
    ElapsedSeconds,
    /// When it started: `12:34`, or the day.
    Started,
    /// When it started, whole.
    LongStarted,
    /// Percent of one processor over its life, as a whole number.
    Use,
    /// The same with a digit behind the point.
    Percent,
    MemoryPercent,
    /// KiB.
    Virtual,
    /// KiB.
    Resident,
    /// Pages.
    Size,
    Nice,
    /// procps' `pri` of `-l`: 60 is the middle.
    Priority,
    Processor,
    Threads,
    Flags,
    Address,
    /// Where it waits in the kernel.
    Wchan,
}

/// ps's names of columns, their headers and what they show.
const COLUMNS: &[(&str, &str, Field)] = &[
    ("pid", "PID", Field::Pid),
    ("tgid", "TGID", Field::Pid),
    ("ppid", "PPID", Field::Ppid),
    ("pgid", "PGID", Field::Pgid),
    ("pgrp", "PGRP", Field::Pgid),
    ("sid", "SID", Field::Sid),
    ("sess", "SESS", Field::Sid),
    ("session", "SESS", Field::Sid),
    ("uid", "UID", Field::Uid),
    ("euid", "EUID", Field::Uid),
    ("gid", "GID", Field::Gid),
    ("egid", "EGID", Field::Gid),
    ("user", "USER", Field::User),
    ("euser", "EUSER", Field::User),
    ("uname", "USER", Field::User),
    ("group", "GROUP", Field::Group),
    ("egroup", "EGROUP", Field::Group),
    ("comm", "COMMAND", Field::Comm),
    ("ucmd", "CMD", Field::Comm),
    ("ucomm", "COMMAND", Field::Comm),
    ("args", "COMMAND", Field::Args),
    ("cmd", "CMD", Field::Args),
    ("command", "COMMAND", Field::Args),
    ("s", "S", Field::State),
    ("state", "S", Field::State),
    ("stat", "STAT", Field::Stat),
    ("tty", "TT", Field::Tty),
    ("tt", "TT", Field::Tty),
    ("tname", "TTY", Field::Tty),
    ("time", "TIME", Field::Time),
    ("cputime", "TIME", Field::Time),
    ("bsdtime", "TIME", Field::BsdTime),
    ("etime", "ELAPSED", Field::Elapsed),
    ("etimes", "ELAPSED", Field::ElapsedSeconds),
    ("stime", "STIME", Field::Started),
    ("start_time", "START", Field::Started),
    ("bsdstart", "START", Field::Started),
    ("lstart", "STARTED", Field::LongStarted),
    ("c", "C", Field::Use),
    ("pcpu", "%CPU", Field::Percent),
    ("%cpu", "%CPU", Field::Percent),
    ("pmem", "%MEM", Field::MemoryPercent),
    ("%mem", "%MEM", Field::MemoryPercent),
    ("vsz", "VSZ", Field::Virtual),
    ("vsize", "VSZ", Field::Virtual),
    ("rss", "RSS", Field::Resident),
    ("rssize", "RSS", Field::Resident),
    ("sz", "SZ", Field::Size),
    ("ni", "NI", Field::Nice),
    ("nice", "NI", Field::Nice),
    ("psr", "PSR", Field::Processor),
    ("nlwp", "NLWP", Field::Threads),
    ("thcount", "THCNT", Field::Threads),
    ("f", "F", Field::Flags),
    ("flags", "F", Field::Flags),
    ("wchan", "WCHAN", Field::Wchan),
];

/// A column: its header and what it shows.
type Column = (String, Field);

/// Which columns a listing has.
#[derive(Debug, PartialEq)]
pub struct Format(Vec<Column>);

fn columns(list: &[(&str, Field)]) -> Vec<Column> {
    list.iter().map(|(title, field)| ((*title).to_owned(), *field)).collect()
}

/// What ps's options ask for beside columns of the user's own.
#[derive(Default)]
struct Asked {
    full: bool,
    extra_full: bool,
    long: bool,
    bsd: bool,
    user: bool,
    own: Vec<Column>,
}

impl Format {
    /// Reads ps's options.
    pub fn parse(text: &str) -> Result<Self> {
        let mut asked = Asked::default();
        let mut words = text.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let refused = |option: &str| {
                Error::not_implemented(format!(
                    "ps option {option} is not there: this engine reads /proc itself; it knows -ef, aux, -l and -o with columns"
                ))
            };
            if let Some(long) = word.strip_prefix("--") {
                let (name, value) = long.split_once('=').unwrap_or((long, ""));
                match name {
                    "format" => asked.columns(value)?,
                    "cols" | "columns" | "width" | "headers" => {}
                    _ => return Err(refused(word)),
                }
                continue;
            }
            let (bsd, letters) = match word.strip_prefix('-') {
                Some(rest) => (false, rest),
                None => (true, word),
            };
            asked.bsd |= bsd;
            for (index, letter) in letters.char_indices() {
                match (letter, bsd) {
                    ('o' | 'O', _) => {
                        let rest = letters.get(index + 1..).unwrap_or_default();
                        let list = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
                        if list.is_empty() {
                            return Err(Error::internal("ps: error: format specification must follow -o"));
                        }
                        asked.columns(list)?;
                        break;
                    }
                    ('f', false) => asked.full = true,
                    ('F', false) => asked.extra_full = true,
                    ('l', false) => asked.long = true,
                    ('u', true) => asked.user = true,
                    // Who is selected, and how wide: the container's processes are, as wide as they are.
                    ('e' | 'A' | 'a' | 'd' | 'w', false) | ('a' | 'x' | 'g' | 'w' | 'r', true) => {}
                    (other, false) => return Err(refused(&format!("-{other}"))),
                    (other, true) => return Err(refused(&other.to_string())),
                }
            }
        }
        asked.format()
    }

    /// The headers.
    pub fn titles(&self) -> Vec<&str> {
        self.0.iter().map(|(title, _)| title.as_str()).collect()
    }

    /// The rows of those processes that still are.
    pub fn rows(&self, pids: &[u32]) -> Vec<Vec<String>> {
        let machine = Machine::read();
        let row = |pid: &u32| {
            let process = Process::read(*pid)?;
            Some(self.0.iter().map(|(_, field)| process.show(*field, &machine)).collect())
        };
        pids.iter().filter_map(row).collect()
    }
}

impl Asked {
    /// `pid,comm` or `pid,user=WHO`.
    fn columns(&mut self, list: &str) -> Result<()> {
        for name in list.split(',').filter(|n| !n.is_empty()) {
            let (name, title) = match name.split_once('=') {
                Some((name, title)) => (name, Some(title)),
                None => (name, None),
            };
            let Some((_, header, field)) = COLUMNS.iter().find(|(known, ..)| *known == name) else {
                return Err(Error::internal(format!(
                    "ps: error: unknown user-defined format specifier \"{name}\""
                )));
            };
            if let Some(title) = title.filter(|t| t.starts_with("PID") && name != "pid") {
                return Err(Error::internal(format!("specifying \"{name}={title}\" is not allowed")));
            }
            self.own.push((title.unwrap_or(header).to_owned(), *field));
        }
        Ok(())
    }

    fn format(self) -> Result<Format> {
        use Field::*;
        let format = if !self.own.is_empty() {
            self.own
        } else if self.user {
            columns(&[
                ("USER", User),
                ("PID", Pid),
                ("%CPU", Percent),
                ("%MEM", MemoryPercent),
                ("VSZ", Virtual),
                ("RSS", Resident),
                ("TTY", Tty),
                ("STAT", Stat),
                ("START", Started),
                ("TIME", BsdTime),
                ("COMMAND", Args),
            ])
        } else if self.long {
            let mut list = columns(&[("F", Flags), ("S", State)]);
            list.push(("UID".into(), if self.full { User } else { Uid }));
            list.extend(columns(&[("PID", Pid), ("PPID", Ppid), ("C", Use), ("PRI", Priority)]));
            list.extend(columns(&[("NI", Nice), ("ADDR", Address), ("SZ", Size), ("WCHAN", Wchan)]));
            if self.full {
                list.push(("STIME".into(), Started));
            }
            list.extend(columns(&[
                ("TTY", Tty),
                ("TIME", Time),
                ("CMD", if self.full { Args } else { Comm }),
            ]));
            list
        } else if self.extra_full || self.full {
            let mut list = columns(&[("UID", User), ("PID", Pid), ("PPID", Ppid), ("C", Use)]);
            if self.extra_full {
                list.extend(columns(&[("SZ", Size), ("RSS", Resident), ("PSR", Processor)]));
            }
            list.extend(columns(&[("STIME", Started), ("TTY", Tty), ("TIME", Time), ("CMD", Args)]));
            list
        } else if self.bsd {
            columns(&[("PID", Pid), ("TTY", Tty), ("STAT", Stat), ("TIME", BsdTime), ("COMMAND", Args)])
        } else {
            columns(&[("PID", Pid), ("TTY", Tty), ("TIME", Time), ("CMD", Comm)])
        };
        // dockerd finds the container's lines by it.
        if !format.iter().any(|(title, _)| title == "PID") {
            return Err(Error::internal("Couldn't find PID field in ps output"));
        }
        Ok(Format(format))
    }
}

/// What is the same for all rows.
struct Machine {
    /// When it booted, seconds since 1970.
    boot: i64,
    now: chrono::DateTime<chrono::Local>,
    /// Clock ticks a second.
    ticks: u64,
    /// KiB.
    memory: u64,
    page_kib: u64,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Machine {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let number = |text: &str, key: &str| {
            text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        };
        let names = |path: &str| {
            text(path)
                .lines()
                .filter_map(|l| {
                    let mut parts = l.split(':');
                    let name = parts.next()?.to_owned();
                    Some((parts.nth(1)?.parse().ok()?, name))
                })
                // The first of a number counts.
                .fold(HashMap::new(), |mut all, (id, name)| {
                    all.entry(id).or_insert(name);
                    all
                })
        };
        Self {
            boot: number(&text("/proc/stat"), "btime ").unwrap_or(0),
            now: chrono::Local::now(),
            ticks: rustix::param::clock_ticks_per_second().max(1),
            memory: number(&text("/proc/meminfo"), "MemTotal:").map_or(1, |m: i64| m.max(1) as u64),
            page_kib: (rustix::param::page_size() as u64 / 1024).max(1),
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        }
    }

    /// A name, as wide as ps shows one; the number where nobody has it.
    fn name(&self, names: &HashMap<u32, String>, id: u32) -> String {
        const WIDTH: usize = 8;
        match names.get(&id) {
            Some(name) if name.chars().count() > WIDTH => {
                name.chars().take(WIDTH - 1).chain(std::iter::once('+')).collect()
            }
            Some(name) => name.clone(),
            // Machines without a list of users have this one.
            None if id == 0 => "root".into(),
            None => id.to_string(),
        }
    }
}

/// One process as /proc tells of it.
struct Process {
    pid: u32,
    comm: String,
    args: String,
    /// The fields of /proc/PID/stat from the state on.
    stat: Vec<String>,
    uid: u32,
    gid: u32,
    locked: bool,
    wchan: String,
}

impl Process {
    /// `None` when it has just gone.
    fn read(pid: u32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (before, after) = stat.rsplit_once(')')?;
        let comm = before.split_once('(')?.1.to_owned();
        let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        // The second number is the effective one.
        let id = |key: &str| {
            status.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().nth(1)?.parse().ok())
        };
        let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words: Vec<String> =
            raw.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        while words.last().is_some_and(String::is_empty) {
            words.pop();
        }
        let zombie = after.split_whitespace().next() == Some("Z");
        Some(Self {
            pid,
            args: match words.as_slice() {
                [] if zombie => format!("[{comm}] <defunct>"),
                [] => format!("[{comm}]"),
                words => words.join(" ").replace(|c: char| c.is_control(), "?"),
            },
            comm: if zombie { format!("{comm} <defunct>") } else { comm },
            stat: after.split_whitespace().map(str::to_owned).collect(),
            uid: id("Uid:")?,
            gid: id("Gid:")?,
            locked: status
                .lines()
                .any(|l| l.strip_prefix("VmLck:").is_some_and(|v| !v.trim_start().starts_with("0 "))),
            wchan: match std::fs::read_to_string(format!("/proc/{pid}/wchan")) {
                Ok(name) if !matches!(name.trim(), "" | "0") => name.trim().chars().take(6).collect(),
                _ => "-".into(),
            },
        })
    }

    /// The n-th field of /proc/PID/stat behind the name, counted from 0 (proc(5) calls it n + 3).
    fn number(&self, n: usize) -> i64 {
        self.stat.get(n).and_then(|f| f.parse().ok()).unwrap_or(0)
    }

    fn state(&self) -> &str {
        self.stat.first().map_or("?", String::as_str)
    }

    /// Processor time and age, in seconds.
    fn times(&self, machine: &Machine) -> (u64, u64) {
        let used = (self.number(11) + self.number(12)).max(0) as u64 / machine.ticks;
        let started = machine.boot + self.number(19).max(0) / machine.ticks as i64;
        (used, (machine.now.timestamp() - started).max(0) as u64)
    }

    /// Thousandths of one processor used over its life.
    fn usage(&self, machine: &Machine) -> u64 {
        let ticks = (self.number(11) + self.number(12)).max(0) as u64;
        match self.times(machine).1 {
            0 => 0,
            age => ticks * 1000 / machine.ticks / age,
        }
    }

    fn tty(&self) -> String {
        let device = self.number(4) as u64;
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
        match major {
            0 => "?".into(),
            4 if minor < 64 => format!("tty{minor}"),
            4 => format!("ttyS{}", minor - 64),
            136..=143 => format!("pts/{}", minor + (major - 136) * 256),
            204 => format!("ttyAMA{}", minor.saturating_sub(64)),
            229 => format!("hvc{minor}"),
            _ => "?".into(),
        }
    }

    fn show(&self, field: Field, machine: &Machine) -> String {
        use chrono::TimeZone as _;
        let (used, age) = self.times(machine);
        let started = || {
            let seconds = machine.boot + self.number(19).max(0) / machine.ticks as i64;
            chrono::Local.timestamp_opt(seconds, 0).single().unwrap_or(machine.now)
        };
        let clock = |seconds: u64| {
            let (days, rest) = (seconds / 86_400, seconds % 86_400);
            let hms = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
            if days > 0 { format!("{days}-{hms}") } else { hms }
        };
        match field {
            Field::Pid => self.pid.to_string(),
            Field::Ppid => self.number(1).to_string(),
            Field::Pgid => self.number(2).to_string(),
            Field::Sid => self.number(3).to_string(),
            Field::Uid => self.uid.to_string(),
            Field::Gid => self.gid.to_string(),
            Field::User => machine.name(&machine.users, self.uid),
            Field::Group => machine.name(&machine.groups, self.gid),
            Field::Comm => self.comm.clone(),
            Field::Args => self.args.clone(),
            Field::State => self.state().to_owned(),
            Field::Stat => {
                let mut text = self.state().to_owned();
                match self.number(16) {
                    ..0 => text.push('<'),
                    1.. => text.push('N'),
                    0 => {}
                }
                if self.locked {
                    text.push('L');
                }
                if self.number(3) == i64::from(self.pid) {
                    text.push('s');
                }
                if self.number(17) > 1 {
                    text.push('l');
                }
                if self.number(5) == self.number(2) {
                    text.push('+');
                }
                text
            }
            Field::Tty => self.tty(),
            Field::Time => clock(used),
            Field::BsdTime => format!("{}:{:02}", used / 60, used % 60),
            Field::Elapsed => match clock(age) {
                short if age < 3600 => short[3..].to_owned(),
                whole => whole,
            },
            Field::ElapsedSeconds => age.to_string(),
            Field::Started => {
                use chrono::Datelike as _;
                let at = started();
                if at.year() != machine.now.year() {
                    at.format("%Y").to_string()
                } else if at.ordinal() != machine.now.ordinal() {
                    at.format("%b%d").to_string()
                } else {
                    at.format("%H:%M").to_string()
                }
            }
            Field::LongStarted => started().format("%a %b %e %H:%M:%S %Y").to_string(),
            Field::Use => (self.usage(machine) / 10).min(99).to_string(),
            Field::Percent => {
                let tenths = self.usage(machine);
                format!("{}.{}", tenths / 10, tenths % 10)
            }
            Field::MemoryPercent => {
                let tenths = self.number(21).max(0) as u64 * machine.page_kib * 1000 / machine.memory;
                format!("{}.{}", tenths.min(999) / 10, tenths.min(999) % 10)
            }
            Field::Virtual => (self.number(20) / 1024).to_string(),
            Field::Resident => (self.number(21) * machine.page_kib as i64).to_string(),
            Field::Size => (self.number(20) / 1024 / machine.page_kib as i64).to_string(),
            Field::Nice => self.number(16).to_string(),
            Field::Priority => (self.number(15) + 60).to_string(),
            Field::Processor => self.number(36).to_string(),
            Field::Threads => self.number(17).to_string(),
            Field::Flags => (self.number(6) >> 6 & 7).to_string(),
            Field::Address => "-".into(),
            Field::Wchan => self.wchan.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(text: &str) -> String {
        match Format::parse(text) {
            Ok(format) => format.titles().join(" "),
            Err(e) => e.message,
        }
    }

    #[test]
    fn options_are_those_of_ps() {
        assert_eq!(titles("-ef"), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("-e -f"), titles("-ef"));
        assert_eq!(titles("aux"), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!(titles("ax"), "PID TTY STAT TIME COMMAND");
        assert_eq!(titles("-e"), "PID TTY TIME CMD");
        assert_eq!(titles("-eF"), "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD");
        assert_eq!(titles("-el"), "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD");
        for list in
            ["-o pid,comm", "-opid,comm", "-eo pid,comm", "o pid,comm", "--format=pid,comm", "-o pid -o comm"]
        {
            assert_eq!(titles(list), "PID COMMAND", "{list}");
        }
        assert_eq!(titles("-o pid,user=WHO"), "PID WHO");
        assert_eq!(titles("-o comm"), "Couldn't find PID field in ps output");
        assert_eq!(titles("-o comm=PID"), "specifying \"comm=PID\" is not allowed");
        assert_eq!(titles("-o pid,bogus"), "ps: error: unknown user-defined format specifier \"bogus\"");
        assert!(titles("--forest").contains("ps option --forest"));
        assert!(titles("-o").contains("must follow"));
        assert!(titles("-eé").contains("ps option -é"));
    }

    #[test]
    fn a_process_is_what_proc_says() {
        let own = std::process::id();
        let format =
            Format::parse("-o pid,ppid,uid,comm,nlwp,stat,tty,time,etime,lstart,pcpu,pmem,rss").unwrap();
        let rows = format.rows(&[own, u32::MAX]);
        assert_eq!(rows.len(), 1, "a process that is none has no row");
        assert_eq!(rows[0][0], own.to_string());
        assert_eq!(rows[0][2], rustix::process::geteuid().as_raw().to_string());
        assert!(rows[0][4].parse::<u32>().unwrap() > 1, "the test's threads");
        assert!(rows[0][12].parse::<u64>().unwrap() > 100, "KiB in memory");
    }
}
