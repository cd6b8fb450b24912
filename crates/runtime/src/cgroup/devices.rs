//! Device rules as a BPF program of our own, attached to the container's group.
//!
//! The rules are read as runc reads them: from first to last, a later one overrules an earlier one that it overlaps.
//! The program asks them from last to first and takes the first that matches, so that nothing needs to be merged:
//!
//! ```text
//!   r2 = type, r3 = access, r4 = major, r5 = minor
//!   for each rule, last first:   type differs? major differs? minor differs? -> next
//!       allow: all of the access is in the rule's -> return 1      (else part of it may be granted below: next)
//!       deny:  any of the access is in the rule's -> return 0
//!   return 0
//! ```
//! An access of several bits (`rw`) granted by two rules (`r` and `w`) is refused; Docker never writes such rules apart.

use crate::error::Error;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
/// Rules of one container: the program stays far below the kernel's limit on instructions.
const MAX_RULES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None` = both.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// Checked rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Access(Vec<Rule>);

impl Access {
    pub fn from_rules(rules: &[LinuxDeviceCgroup]) -> Result<Access, Error> {
        if rules.len() > MAX_RULES {
            return Err(Error::Invalid(format!(
                "{} device rules: at most {MAX_RULES} are allowed",
                rules.len()
            )));
        }
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => i32::try_from(n)
                .ok()
                .filter(|n| *n >= 0)
                .map(Some)
                .ok_or_else(|| Error::Invalid(format!("{n} is no device number"))),
        };
        let mut read = Vec::with_capacity(rules.len());
        for rule in rules {
            let mut access = 0;
            for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
                access |= match letter {
                    'r' => ACCESS_READ,
                    'w' => ACCESS_WRITE,
                    'm' => ACCESS_MKNOD,
                    other => return Err(Error::Invalid(format!("{other:?} is no device access"))),
                };
            }
            read.push(Rule {
                allow: rule.allow(),
                kind: match rule.typ().unwrap_or(LinuxDeviceType::A) {
                    LinuxDeviceType::A => None,
                    LinuxDeviceType::B => Some(TYPE_BLOCK),
                    LinuxDeviceType::C | LinuxDeviceType::U => Some(TYPE_CHAR),
                    LinuxDeviceType::P => return Err(Error::Invalid("a FIFO is no device to allow".into())),
                },
                major: number(rule.major())?,
                minor: number(rule.minor())?,
                access,
            });
        }
        Ok(Access(read))
    }

    /// The program, 8-byte instructions.
    pub fn program(&self) -> Vec<u8> {
        // struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type); u32 major; u32 minor; }
        let mut code = vec![
            insn(LDX_W, 2, 1, 0, 0),
            insn(MOV32_REG, 3, 2, 0, 0),
            insn(AND32, 2, 0, 0, 0xffff),
            insn(RSH32, 3, 0, 0, 16),
            insn(LDX_W, 4, 1, 4, 0),
            insn(LDX_W, 5, 1, 8, 0),
        ];
        for rule in self.0.iter().rev() {
            let mut tests = Vec::new();
            for (register, wanted) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
                if let Some(wanted) = wanted {
                    tests.push((register, wanted));
                }
            }
            // What follows the tests: mov r1 = access; and r1; jump; return (2).
            let tail = 5i16;
            let count = tests.len() as i16;
            for (at, (register, wanted)) in tests.into_iter().enumerate() {
                code.push(insn(JNE32, register, 0, count - at as i16 - 1 + tail, wanted));
            }
            code.push(insn(MOV32_REG, 1, 3, 0, 0));
            if rule.allow {
                // A bit outside the rule's?
                code.push(insn(AND32, 1, 0, 0, !rule.access));
                code.push(insn(JNE32, 1, 0, 2, 0));
            } else {
                code.push(insn(AND32, 1, 0, 0, rule.access));
                code.push(insn(JEQ32, 1, 0, 2, 0));
            }
            code.push(insn(MOV32, 0, 0, 0, i32::from(rule.allow)));
            code.push(insn(EXIT, 0, 0, 0, 0));
        }
        code.push(insn(MOV32, 0, 0, 0, 0));
        code.push(insn(EXIT, 0, 0, 0, 0));
        code.concat()
    }
}

const LDX_W: u8 = 0x61;
const MOV32: u8 = 0xb4;
const MOV32_REG: u8 = 0xbc;
const AND32: u8 = 0x54;
const RSH32: u8 = 0x74;
const JNE32: u8 = 0x56;
const JEQ32: u8 = 0x16;
const EXIT: u8 = 0x95;

fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    [code, src << 4 | dst, o0, o1, i0, i1, i2, i3]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(program: &[u8], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let context = [(access << 16 | kind) as u32, major, minor];
        let mut r = [0u32; 11];
        let mut at = 0usize;
        loop {
            let i = &program[at * 8..at * 8 + 8];
            let (dst, src) = (usize::from(i[1] & 15), usize::from(i[1] >> 4));
            let offset = i16::from_ne_bytes([i[2], i[3]]);
            let imm = i32::from_ne_bytes([i[4], i[5], i[6], i[7]]) as u32;
            at += 1;
            let jump =
                |taken: bool, at: usize| if taken { (at as i64 + i64::from(offset)) as usize } else { at };
            match i[0] {
                LDX_W => r[dst] = context[offset as usize / 4],
                MOV32 => r[dst] = imm,
                MOV32_REG => r[dst] = r[src],
                AND32 => r[dst] &= imm,
                RSH32 => r[dst] >>= imm,
                JNE32 => at = jump(r[dst] != imm, at),
                JEQ32 => at = jump(r[dst] == imm, at),
                EXIT => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn dockers_default_rules() {
        let program = Access::from_rules(&crate::spec::default_device_rules()).unwrap().program();
        let read_write = ACCESS_READ | ACCESS_WRITE;
        assert!(run(&program, TYPE_CHAR, read_write, 1, 3), "null");
        assert!(run(&program, TYPE_CHAR, read_write, 136, 7), "pts/7");
        assert!(run(&program, TYPE_BLOCK, ACCESS_MKNOD, 8, 0), "mknod sda");
        assert!(!run(&program, TYPE_BLOCK, ACCESS_READ, 8, 0), "read sda");
        assert!(!run(&program, TYPE_CHAR, read_write, 10, 200), "tun");
        assert!(!run(&program, TYPE_CHAR, ACCESS_READ, 1, 1), "mem");
    }

    proptest::proptest! {
        #[test]
        fn the_program_decides_as_the_rules_read(
            rules in proptest::collection::vec((proptest::bool::ANY, 0..3, -1..3i64, -1..3i64, 1..8), 0..12),
            kind in 1..3, access in proptest::sample::select(vec![1, 2, 4]), major in 0..3u32, minor in 0..3u32,
        ) {
            let rules: Vec<Rule> = rules.iter().map(|(allow, kind, major, minor, access)| Rule {
                allow: *allow,
                kind: (*kind > 0).then_some(*kind),
                major: (*major >= 0).then_some(*major as i32),
                minor: (*minor >= 0).then_some(*minor as i32),
                access: *access,
            }).collect();
            let expected = rules.iter().rev().find(|r| {
                r.kind.is_none_or(|k| k == kind) && r.major.is_none_or(|m| m as u32 == major)
                    && r.minor.is_none_or(|m| m as u32 == minor) && r.access & access != 0
            }).is_some_and(|r| r.allow);
            assert_eq!(run(&Access(rules).program(), kind, access, major, minor), expected);
        }
    }
}
