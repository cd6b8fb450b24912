//! Names to numbers, per architecture.

use crate::error::Error;
use oci_spec::runtime::Arch;
use std::str::FromStr as _;
use syscalls::{aarch64, arm, riscv64, x86, x86_64};

/// Numbers of x32 carry this bit; the architecture is that of x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// x32 calls with a number of their own.
const X32: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Calls younger than the table: the same number everywhere (x32 adds its bit).
const YOUNG: [(&str, u32); 10] = [
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
];

/// An architecture a filter can be written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
}

impl Machine {
    pub fn of(arch: Arch) -> Result<Machine, Error> {
        Ok(match arch {
            Arch::ScmpArchNative => Machine::of(super::native().0)?,
            Arch::ScmpArchX86_64 => Machine::X86_64,
            Arch::ScmpArchX86 => Machine::X86,
            Arch::ScmpArchX32 => Machine::X32,
            Arch::ScmpArchAarch64 => Machine::Aarch64,
            Arch::ScmpArchArm => Machine::Arm,
            Arch::ScmpArchRiscv64 => Machine::Riscv64,
            other => {
                return Err(Error::Unavailable(format!("seccomp: architecture {other} is not supported")));
            }
        })
    }

    /// `AUDIT_ARCH_*`, as the kernel reports it.
    pub fn audit(self) -> u32 {
        match self {
            Machine::X86_64 | Machine::X32 => 0xc000_003e,
            Machine::X86 => 0x4000_0003,
            Machine::Aarch64 => 0xc000_00b7,
            Machine::Arm => 0x4000_0028,
            Machine::Riscv64 => 0xc000_00f3,
        }
    }

    /// The number of the call `name`; `None` where the architecture has none.
    pub fn number(self, name: &str) -> Option<u32> {
        let table = match self {
            Machine::X86_64 => x86_64::Sysno::from_str(name).ok().map(|n| n.id() as u32),
            Machine::X86 => x86::Sysno::from_str(name).ok().map(|n| n.id() as u32),
            Machine::Aarch64 => aarch64::Sysno::from_str(name).ok().map(|n| n.id() as u32),
            Machine::Arm => arm::Sysno::from_str(name).ok().map(|n| n.id() as u32),
            Machine::Riscv64 => riscv64::Sysno::from_str(name).ok().map(|n| n.id() as u32),
            Machine::X32 => {
                let own = X32.iter().find(|(n, _)| *n == name).map(|(_, number)| *number);
                return own.or_else(|| Machine::X86_64.number(name)).map(|number| number | X32_BIT);
            }
        };
        table.or_else(|| YOUNG.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)).or(
            match (self, name) {
                (Machine::X86_64, "uretprobe") => Some(335),
                // Our table has it under the name that its wrapper has in C.
                (Machine::Aarch64, "newfstatat") => Some(79),
                (Machine::Riscv64, "riscv_hwprobe") => Some(258),
                _ => None,
            },
        )
    }
}
