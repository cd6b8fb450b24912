//! What tests and benchmarks need beside this repository, from Debian's packages, nothing installed.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::debian::Debian;
use crate::target_dir;

/// A program taken from a package.
struct Tool {
    /// Environment variable that names it to tests.
    variable: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
    program: &'static str,
    /// Whether what the package depends on comes along: not where that is a whole daemon.
    closure: bool,
    /// Put into test images: the file or folder itself is named, not a script that runs it.
    into_image: bool,
}

/// Every tool of the end-to-end tests. The suites are those whose versions the tests speak of.
const TOOLS: &[Tool] = &[
    Tool {
        variable: "CORACLE_TEST_REGISTRY",
        suite: "trixie",
        packages: &["docker-registry"],
        program: "/usr/bin/docker-registry",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_BUSYBOX",
        suite: "trixie",
        packages: &["busybox-static"],
        program: "/usr/bin/busybox",
        closure: true,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_DOCKER_20",
        suite: "bookworm",
        packages: &["docker.io"],
        program: "/usr/bin/docker",
        closure: false,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_DOCKER_26",
        suite: "trixie",
        packages: &["docker-cli"],
        program: "/usr/bin/docker",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_DOCKER",
        suite: "forky",
        packages: &["docker-cli"],
        program: "/usr/bin/docker",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_COMPOSE",
        suite: "forky",
        packages: &["docker-compose"],
        program: "/usr/libexec/docker/cli-plugins/docker-compose",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_BUILDX",
        suite: "forky",
        packages: &["docker-buildx"],
        program: "/usr/libexec/docker/cli-plugins/docker-buildx",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_NFT",
        suite: "bookworm",
        packages: &["nftables"],
        program: "/usr/sbin/nft",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_PYTHON",
        suite: "trixie",
        packages: &["python3-docker"],
        program: "/usr/bin/python3",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_RPM",
        suite: "bookworm",
        packages: &["rpm"],
        program: "/usr/bin/rpm",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_SKOPEO",
        suite: "trixie",
        packages: &["skopeo"],
        program: "/usr/bin/skopeo",
        closure: true,
        into_image: false,
    },
    Tool {
        variable: "CORACLE_TEST_PODMAN",
        suite: "trixie",
        packages: &["podman"],
        // It starts itself anew: as a whole root, not by a script.
        program: "/",
        closure: true,
        into_image: true,
    },
    // They start themselves anew, so they are run as they are, with their libraries but this machine's C library: the
    // oldest suite's.
    Tool {
        variable: "CORACLE_TEST_CRUN",
        suite: "bookworm",
        packages: &[
            "crun",
            "libcap2",
            "libgcrypt20",
            "libgpg-error0",
            "liblz4-1",
            "liblzma5",
            "libseccomp2",
            "libsystemd0",
            "libyajl2",
            "libzstd1",
        ],
        program: "/",
        closure: false,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_RUNC",
        suite: "bookworm",
        packages: &["runc", "libseccomp2"],
        program: "/",
        closure: false,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_NGINX",
        suite: "trixie",
        packages: &["nginx-light"],
        program: "/",
        closure: true,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_REDIS",
        suite: "trixie",
        packages: &["redis-server"],
        program: "/",
        closure: true,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_POSTGRES",
        suite: "trixie",
        // initdb and the start script want a shell and what it calls.
        packages: &["postgresql", "dash", "coreutils"],
        program: "/",
        closure: true,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_WATCHER",
        suite: "trixie",
        packages: &["python3-watchdog"],
        program: "/",
        closure: true,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_CHOKIDAR",
        suite: "trixie",
        packages: &["node-chokidar", "nodejs"],
        program: "/",
        closure: true,
        into_image: true,
    },
    Tool {
        variable: "CORACLE_TEST_MINBASE",
        suite: "trixie",
        packages: MINBASE,
        program: "/",
        closure: true,
        into_image: true,
    },
];

/// Debian's essential packages and apt: what its smallest installations consist of.
const MINBASE: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "mawk",
    "ncurses-base",
    "ncurses-bin",
    "perl-base",
    "sed",
    "sysvinit-utils",
    "tar",
    "util-linux",
    "apt",
    "debian-archive-keyring",
];

/// The newest stock CLI.
pub fn docker() -> Result<PathBuf> {
    let all = environment()?;
    let found = all.into_iter().find(|(variable, _)| variable == "CORACLE_TEST_DOCKER");
    found.map(|(_, path)| path).context("no docker CLI among the tools")
}

/// Compose and buildx, for the window, by the variables that it reads.
pub fn plugins() -> Result<Vec<(&'static str, PathBuf)>> {
    let named = [("CORACLE_TEST_COMPOSE", "CORACLE_COMPOSE"), ("CORACLE_TEST_BUILDX", "CORACLE_BUILDX")];
    let mut all = Vec::new();
    for (of_tests, of_window) in named {
        if let Some(tool) = TOOLS.iter().find(|t| t.variable == of_tests) {
            all.push((of_window, fetched(tool)?));
        }
    }
    Ok(all)
}

/// The tool that tests find by this variable.
#[cfg(test)]
pub fn named(variable: &str) -> Result<PathBuf> {
    fetched(TOOLS.iter().find(|tool| tool.variable == variable).with_context(|| format!("no {variable}"))?)
}

/// Fetches what is missing; answers the environment that names the tools to tests.
pub fn environment() -> Result<Vec<(String, PathBuf)>> {
    TOOLS.iter().map(|tool| Ok((tool.variable.to_owned(), fetched(tool)?))).collect()
}

/// Fetches a tool where it is missing, and answers its path.
fn fetched(tool: &Tool) -> Result<PathBuf> {
    let debian = Debian::open(tool.suite)?;
    let tree = if tool.closure {
        debian.tree(tool.packages[0], tool.packages)
    } else {
        debian.fetch(tool.packages).and_then(|debs| debian.unpack(tool.packages[0], &debs))
    };
    let tree = tree.with_context(|| format!("{} from Debian's {}", tool.packages[0], tool.suite))?;
    // A script each: programs of a newer Debian run with its libraries.
    let name = tool.variable.trim_start_matches("CORACLE_TEST_").to_ascii_lowercase();
    let base = PathBuf::from(tool.program);
    let base = base.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let script = target_dir().join("tools").join(name).join(base);
    if tool.into_image {
        return Ok(tree.file(tool.program));
    }
    let mut env = Vec::new();
    if tool.variable == "CORACLE_TEST_PYTHON" {
        // Its own library and packages, none of the machine's.
        env.push(("PYTHONHOME", tree.file("/usr").display().to_string()));
        env.push(("PYTHONPATH", tree.file("/usr/lib/python3/dist-packages").display().to_string()));
    }
    if tool.variable == "CORACLE_TEST_RPM" {
        env.push(("RPM_CONFIGDIR", tree.file("/usr/lib/rpm").display().to_string()));
    }
    tree.wrapper(tool.program, &[], &env, &script)?;
    Ok(script)
}
