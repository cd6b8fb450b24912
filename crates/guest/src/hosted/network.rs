//! The guest's way out: a pair of interfaces, one end in the distribution's network namespace (that of every other
//! distribution as well), the other in the guest's own, and addresses translated between them.
//!
//! A namespace of its own, for the engine's bridges and rules would meet those of other distributions.

use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use super::BUSYBOX;
use crate::{GuestError, say};

/// Network of all pairs; each has four addresses of it.
const NET: [u8; 3] = [192, 168, 127];
/// Pairs at once: homes whose machines run side by side.
const PAIRS: u8 = 64;
const NFT: &str = "/usr/sbin/nft";
/// The chain by which iptables, another distribution's, says what is passed on in the network namespace that all of them share: a
/// dockerd that came before lets nothing pass but its own containers' packets.
const OTHERS: &str = "ip filter FORWARD";
/// WSL's own program that tells how the distribution is connected, where it puts it.
const INFO: [&str; 3] = ["/usr/bin/wslinfo", "/usr/sbin/wslinfo", "/bin/wslinfo"];
/// Asked when the distribution has no server that can be reached from another namespace.
const NO_SERVER: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// A pair, and what leads out of it.
pub struct Network {
    number: u8,
    /// Who is asked for names.
    dns: Ipv4Addr,
    /// Where the host is.
    host: Option<Ipv4Addr>,
}

impl Network {
    /// Takes the first pair that nobody has.
    pub fn choose() -> Result<Self, GuestError> {
        let is_free = |n: &u8| !Path::new(&format!("/sys/class/net/{}", name(*n))).exists();
        let number = (0..PAIRS)
            .find(is_free)
            .ok_or_else(|| GuestError::Invalid(format!("{PAIRS} machines run here already")))?;
        let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        let host = host(&mode(), &routes);
        let dns = name_server(&resolv).or(default_gateway(&routes)).unwrap_or(NO_SERVER);
        Ok(Self { number, dns, host })
    }

    /// The guest's end, as boot arguments.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("coracle.net={}/30,{},{}", self.address(2), self.address(1), self.dns),
            format!("coracle.link=unix:{}", super::LINK),
        ];
        words.extend(self.host.map(|host| format!("coracle.host={host}")));
        words
    }

    /// Makes the pair, its one end the guest's (whose PID 1 is `pid`). `root`: where programs are.
    pub fn connect(&self, pid: u32, root: &Path) -> Result<(), GuestError> {
        let (outside, inside) = (name(self.number), pid.to_string());
        let ours = std::process::id().to_string();
        let there = |args: &[&str]| run(&[&["nsenter", "-t", &inside, "-n", BUSYBOX, "ip"], args].concat());
        // Made in the guest's namespace: there both names are free.
        there(&["link", "add", &outside, "type", "veth"])?;
        there(&["link", "set", &outside, "netns", &ours])?;
        let peer = "veth0"; // the kernel's own name for the other end
        there(&["link", "set", peer, "name", "eth0"])?;
        run(&["ip", "addr", "add", &format!("{}/30", self.address(1)), "dev", &outside])?;
        run(&["ip", "link", "set", &outside, "up"])?;
        let path = "/proc/sys/net/ipv4/ip_forward";
        fs::write(path, "1").map_err(GuestError::io("setting", path))?;
        let translated = nft(
            root,
            &format!(
                "table ip {outside}\ndelete table ip {outside}\ntable ip {outside} {{\n\
             chain out {{ type nat hook postrouting priority 100; ip saddr {}/30 oifname != \"{outside}\" masquerade; }}\n}}\n",
                self.address(0)
            ),
        );
        // Where there is no such chain, nothing is in the way.
        if let Ok(chain) = nft(root, &format!("list chain {OTHERS}\n"))
            && let Err(error) = nft(root, &let_through(&outside, &chain))
        {
            say(format_args!("what others let pass in this network can't be changed: {error}"));
        }
        translated.map(drop)
    }

    /// Takes the rules away; the pair goes with the guest's namespace.
    pub fn disconnect(&self, root: &Path) {
        let _ = nft(root, &format!("delete table ip {}\n", name(self.number)));
        // Handles are numbers that only a listing tells.
        if let Ok(chain) = nft(root, &format!("list chain {OTHERS}\n")) {
            let _ = nft(root, &take_back(&name(self.number), &chain));
        }
        let _ = run(&["ip", "link", "del", &name(self.number)]);
    }

    fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(NET[0], NET[1], NET[2], self.number * 4 + n)
    }
}

fn name(number: u8) -> String {
    format!("coracle{number}")
}

fn run(args: &[&str]) -> Result<(), GuestError> {
    let output = Command::new(BUSYBOX).args(args).output().map_err(GuestError::io("running", BUSYBOX))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(GuestError::Program { program: "busybox", message: format!("{}: {said}", args.join(" ")) })
}

/// Lets what comes from and goes to an interface pass a chain of [`OTHERS`], first of all; what is there already is not said
/// twice. Written as iptables writes such rules: others it would not understand, and no longer touch the table.
fn let_through(interface: &str, chain: &str) -> String {
    let ways = ["iifname", "oifname"].map(|way| format!("{way} \"{interface}\""));
    let missing = ways.iter().filter(|way| !chain.contains(way.as_str()));
    missing.map(|way| format!("insert rule {OTHERS} {way} counter accept\n")).collect()
}

/// Takes that away again; `chain` is listed with handles.
fn take_back(interface: &str, chain: &str) -> String {
    let ours = chain.lines().filter(|line| line.contains(&format!("ifname \"{interface}\" ")));
    let handles = ours.filter_map(|line| line.rsplit_once("# handle ").map(|(_, handle)| handle.trim()));
    handles.map(|handle| format!("delete rule {OTHERS} handle {handle}\n")).collect()
}

/// By the root's program, in there: the distribution has none. What it says, with handles.
fn nft(root: &Path, rules: &str) -> Result<String, GuestError> {
    let failed = |error| GuestError::io("running", NFT)(error);
    let mut nft = Command::new(BUSYBOX)
        .arg("chroot")
        .arg(root)
        .args([NFT, "-a", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Dropped at the statement's end: nft reads to it.
    let written = nft.stdin.take().expect("piped").write_all(rules.as_bytes());
    let output = nft.wait_with_output().map_err(failed)?;
    if output.status.success() && written.is_ok() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(GuestError::Program { program: "nft", message })
}

/// The first server that can be asked from another namespace.
fn name_server(resolv: &str) -> Option<Ipv4Addr> {
    let servers = resolv.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|server| server.trim().parse().ok()).find(|server: &Ipv4Addr| !server.is_loopback())
}

/// How the distribution is connected (`networkingMode` of `.wslconfig`); empty where nobody tells.
fn mode() -> String {
    let Some(info) = INFO.iter().find(|info| Path::new(info).exists()) else { return String::new() };
    let said = Command::new(info).arg("--networking-mode").stdin(Stdio::null()).output();
    said.map_or(String::new(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Where Windows is. By WSL's own network it is the gateway. One that mirrors Windows' has Windows' own gateway, which is some
/// router, and whoever speaks to that as to this computer speaks to a stranger; Windows itself is reached from the
/// distribution alone there, by its loopback.
fn host(mode: &str, routes: &str) -> Option<Ipv4Addr> {
    default_gateway(routes).filter(|_| mode != "mirrored")
}

/// The default route's gateway, of `/proc/net/route` (addresses as the machine's own words, in hexadecimal).
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway) = (words.get(1)?, words.get(2)?);
        let gateway = u32::from_str_radix(gateway, 16).ok().filter(|g| *g != 0)?;
        (*destination == "00000000").then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_distribution_knows_of_the_way_out() {
        let resolv = "# generated\nnameserver 127.0.0.53\nnameserver 10.255.255.254\nsearch x\n";
        assert_eq!(name_server(resolv), Some(Ipv4Addr::new(10, 255, 255, 254)));
        assert_eq!(name_server("nameserver fe80::1\n"), None);
        let routes = "Iface\tDestination\tGateway \tFlags\neth0\t000011AC\t00000000\t0001\neth0\t00000000\t010011AC\t0003\n";
        let expected = if cfg!(target_endian = "little") { Some(Ipv4Addr::new(172, 17, 0, 1)) } else { None };
        assert_eq!(default_gateway(routes), expected);
        assert_eq!(default_gateway(""), None);
        // An older WSL says nothing.
        assert_eq!((host("nat", routes), host("", routes)), (expected, expected));
        assert_eq!(host("mirrored", routes), None, "that is a router");
    }

    #[test]
    fn what_another_distributions_dockerd_drops_is_let_through_and_taken_back() {
        let before = "table ip filter {\n\tchain FORWARD { # handle 1\n\t\ttype filter hook forward priority filter; policy drop;\n\
            \t\tcounter packets 0 bytes 0 jump DOCKER-USER # handle 4\n\t}\n}\n";
        let rules = let_through("coracle0", before);
        let expected = "insert rule ip filter FORWARD iifname \"coracle0\" counter accept\n\
            insert rule ip filter FORWARD oifname \"coracle0\" counter accept\n";
        assert_eq!(rules, expected);
        let after = before.replace(
            "\t\tcounter",
            "\t\toifname \"coracle0\" counter packets 7 bytes 420 accept # handle 12\n\
             \t\tiifname \"coracle0\" counter packets 9 bytes 540 accept # handle 11\n\
             \t\tiifname \"coracle01\" counter packets 0 bytes 0 accept # handle 13\n\t\tcounter",
        );
        assert_eq!(let_through("coracle0", &after), "");
        let back = "delete rule ip filter FORWARD handle 12\ndelete rule ip filter FORWARD handle 11\n";
        assert_eq!(take_back("coracle0", &after), back);
        assert_eq!(take_back("coracle0", before), "");
    }

    #[test]
    fn each_pair_has_four_addresses() {
        let network = Network { number: 63, dns: NO_SERVER, host: Some(Ipv4Addr::new(172, 20, 0, 1)) };
        let words = network.words();
        assert_eq!(words[0], "coracle.net=192.168.127.254/30,192.168.127.253,1.1.1.1");
        assert_eq!(words[2], "coracle.host=172.20.0.1");
    }
}
