//! Compiled programs, run by an interpreter, against what the rules say.

use super::syscalls::{Machine, X32_BIT};
use super::*;
use crate::spec::DEFAULT_CAPABILITIES;
use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompOperator as Op};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// Runs a classic BPF program over `struct seccomp_data`, as the kernel does.
fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (at, arg) in args.iter().enumerate() {
        data[16 + at * 8..24 + at * 8].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut a, mut at) = (0u32, 0usize);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([i[0], i[1]]);
        let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        at += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { i[2] } else { i[3] });
        match code {
            0x20 => a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn call(program: &[u8], machine: Machine, name: &str, args: [u64; 6]) -> u32 {
    run(program, machine.audit(), machine.number(name).unwrap_or_else(|| panic!("{name}?")), args)
}

fn default(capabilities: &[Capability]) -> Vec<u8> {
    compile(&docker_default(capabilities, Kernel(6, 12)).unwrap()).unwrap()
}

/// arm64 and riscv64 number calls alike: a name that one table lacks would be refused to every container there.
#[test]
fn processors_of_one_numbering_have_the_same_calls() {
    let profile = docker_default(&DEFAULT_CAPABILITIES, Kernel(6, 12)).unwrap();
    let names: Vec<&String> = profile.syscalls().iter().flatten().flat_map(|rule| rule.names()).collect();
    let mut seen = 0;
    for name in names.into_iter().filter(|name| !name.starts_with("riscv")) {
        if let Some(number) = Machine::Riscv64.number(name) {
            assert_eq!(Machine::Aarch64.number(name), Some(number), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen} calls of the profile were compared");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn dockers_default_profile() {
    let program = default(&DEFAULT_CAPABILITIES);
    let is = |name, args| call(&program, Machine::X86_64, name, args);
    for name in ["read", "openat", "execve", "ptrace", "futex", "io_pgetevents", "rseq", "statx", "mseal"] {
        assert_eq!(is(name, [0; 6]), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "unshare",
        "setns",
        "keyctl",
        "bpf",
        "reboot",
        "init_module",
        "kexec_load",
        "io_uring_setup",
        "userfaultfd",
        "open_tree",
        "pivot_root",
        "swapon",
        "settimeofday",
        "add_key",
        "request_key",
        "umount2",
    ] {
        assert_eq!(is(name, [0; 6]), EPERM, "{name}");
    }
    assert_eq!(is("clone", [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]), ALLOW);
    for namespace in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
        assert_eq!(is("clone", [namespace as u64, 0, 0, 0, 0, 0]), EPERM);
    }
    assert_eq!(is("clone3", [0; 6]), ENOSYS);
    for (family, wanted) in
        [(1, ALLOW), (2, ALLOW), (10, ALLOW), (16, ALLOW), (17, ALLOW), (40, EPERM), (38, EPERM)]
    {
        assert_eq!(is("socket", [family, 0, 0, 0, 0, 0]), wanted, "family {family}");
    }
    for (persona, wanted) in
        [(0, ALLOW), (8, ALLOW), (0xffff_ffff, ALLOW), (0x4_0000, EPERM), (1 << 40, EPERM)]
    {
        assert_eq!(is("personality", [persona, 0, 0, 0, 0, 0]), wanted, "persona {persona:#x}");
    }
    assert_eq!(run(&program, Machine::X86_64.audit(), 5000, [0; 6]), ENOSYS, "newer than the profile");
    assert_eq!(call(&program, Machine::X86, "socketcall", [0; 6]), ALLOW);
    assert_eq!(call(&program, Machine::X86, "mount", [0; 6]), EPERM);
    assert_eq!(run(&program, Machine::X86_64.audit(), X32_BIT, [0; 6]), ALLOW, "x32 read");
    assert_eq!(call(&program, Machine::X32, "mount", [0; 6]), EPERM);
    assert_eq!(run(&program, Machine::Aarch64.audit(), 63, [0; 6]), KILL_PROCESS, "a foreign architecture");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn capabilities_open_what_they_allow() {
    let mut more = DEFAULT_CAPABILITIES.to_vec();
    more.push(Capability::SysAdmin);
    let program = default(&more);
    for name in ["mount", "unshare", "clone3", "bpf", "setns"] {
        assert_eq!(call(&program, Machine::X86_64, name, [0; 6]), ALLOW, "{name}");
    }
    assert_eq!(call(&program, Machine::X86_64, "clone", [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), ALLOW);
    let none = default(&[]);
    assert_eq!(call(&none, Machine::X86_64, "chroot", [0; 6]), EPERM);
    assert_eq!(call(&program, Machine::X86_64, "chroot", [0; 6]), ALLOW);
}

#[test]
fn an_older_kernel_lacks_ptrace() {
    let program = compile(&docker_default(&DEFAULT_CAPABILITIES, Kernel(4, 7)).unwrap()).unwrap();
    let machine = Machine::of(Arch::ScmpArchNative).unwrap();
    assert_eq!(call(&program, machine, "ptrace", [0; 6]), EPERM);
}

#[test]
fn every_name_of_the_default_profile_is_known_somewhere() {
    let machines = [Machine::X86_64, Machine::X86, Machine::Aarch64, Machine::Arm, Machine::Riscv64];
    let profile =
        docker_default(&crate::spec::all_capabilities().into_iter().collect::<Vec<_>>(), Kernel(6, 12))
            .unwrap();
    let unknown: Vec<String> = profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|s| s.names().clone())
        .filter(|name| machines.iter().all(|m| m.number(name).is_none()))
        .collect();
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn a_profile_of_the_users_own() {
    let json = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"name":"chmod","action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#;
    let program = compile(&from_docker_json(json, &[], Kernel(6, 1)).unwrap()).unwrap();
    let machine = Machine::of(Arch::ScmpArchNative).unwrap();
    if machine == Machine::X86_64 {
        assert_eq!(call(&program, machine, "chmod", [0; 6]), 0x0005_000d);
    }
    assert_eq!(call(&program, machine, "kill", [1, 9, 0, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(call(&program, machine, "kill", [1, 15, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(&program, machine, "mount", [0; 6]), ALLOW);
    assert!(from_docker_json(b"{}", &[], Kernel(6, 1)).is_err());
}

proptest::proptest! {
    #[test]
    fn every_operator_compares_64_bits(
        operator in 0..7usize,
        // Halves that often are equal, so that both words of the comparison count.
        value in (0..3u64, 0..3u64), second in (0..3u64, 0..3u64), arg in (0..3u64, 0..3u64), index in 0..6usize,
    ) {
        let join = |(high, low): (u64, u64)| high << 32 | low;
        let (value, second, arg) = (join(value), join(second), join(arg));
        let (operator, holds) = [
            (Op::ScmpCmpNe, arg != value), (Op::ScmpCmpLt, arg < value), (Op::ScmpCmpLe, arg <= value),
            (Op::ScmpCmpEq, arg == value), (Op::ScmpCmpGe, arg >= value), (Op::ScmpCmpGt, arg > value),
            (Op::ScmpCmpMaskedEq, arg & value == second),
        ][operator];
        let condition = LinuxSeccompArgBuilder::default().index(index).value(value).value_two(second).op(operator).build().unwrap();
        let rule = LinuxSyscallBuilder::default().names(vec!["read".to_owned()]).action(LinuxSeccompAction::ScmpActAllow)
            .args(vec![condition]).build().unwrap();
        let profile = LinuxSeccompBuilder::default().default_action(LinuxSeccompAction::ScmpActErrno)
            .architectures(vec![Arch::ScmpArchNative]).syscalls(vec![rule]).build().unwrap();
        let mut args = [0; 6];
        args[index] = arg;
        let got = call(&compile(&profile).unwrap(), Machine::of(Arch::ScmpArchNative).unwrap(), "read", args);
        assert_eq!(got == ALLOW, holds);
    }
}
