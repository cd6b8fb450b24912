//! From rules to a BPF program.

use super::syscalls::{Machine, X32_BIT};
use crate::error::Error;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use std::collections::BTreeMap;

/// The kernel's limit on a program, instructions.
const MAX_PROGRAM: usize = 4096;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy)]
struct Insn {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

fn insn(code: u16, k: u32, yes: u8, no: u8) -> Insn {
    Insn { code, yes, no, k }
}

/// What happens to one call: conditions in order, then what holds otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    conditional: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    operator: LinuxSeccompOperator,
    value: u64,
    second: u64,
}

/// Compiles a profile into the array of `struct sock_filter` that seccomp(2) takes.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let mut machines = Vec::new();
    for arch in profile.architectures().iter().flatten() {
        let machine = Machine::of(*arch)?;
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    if machines.is_empty() {
        machines.push(Machine::of(super::native().0)?);
    }
    let default = value(profile.default_action(), profile.default_errno_ret())?;
    // Sections from the last to the first: each knows the length of what follows it.
    let mut program = vec![insn(RETURN, KILL_PROCESS, 0, 0)];
    let mut done = Vec::new();
    for machine in machines.iter().rev() {
        let audit = machine.audit();
        if done.contains(&audit) {
            continue;
        }
        done.push(audit);
        let mut section = vec![insn(LOAD, NUMBER, 0, 0)];
        let with = |m: Machine| -> Result<Vec<Insn>, Error> {
            if machines.contains(&m) {
                Ok(search(&outcomes(profile, m, default)?, default))
            } else {
                Ok(vec![insn(RETURN, KILL_PROCESS, 0, 0)])
            }
        };
        match machine {
            Machine::X86_64 | Machine::X32 => {
                let long = with(Machine::X86_64)?;
                section.extend(branch(JGE, X32_BIT, with(Machine::X32)?, long));
            }
            machine => section.extend(with(*machine)?),
        }
        let mut next = vec![insn(LOAD, ARCH, 0, 0)];
        next.extend(branch(JEQ, audit, section, program));
        program = next;
    }
    if program.len() > MAX_PROGRAM {
        return Err(Error::Invalid(format!(
            "the seccomp profile compiles to {} instructions: the kernel takes {MAX_PROGRAM}",
            program.len()
        )));
    }
    Ok(program
        .iter()
        .flat_map(|i| {
            let ([c0, c1], [k0, k1, k2, k3]) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
            [c0, c1, i.yes, i.no, k0, k1, k2, k3]
        })
        .collect())
}

fn value(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        LinuxSeccompAction::ScmpActTrace => TRACE | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::Unavailable("seccomp: SCMP_ACT_NOTIFY is not supported".into()));
        }
    })
}

/// Number to outcome, for the calls the profile names.
fn outcomes(profile: &LinuxSeccomp, machine: Machine, default: u32) -> Result<BTreeMap<u32, Outcome>, Error> {
    let mut all: BTreeMap<u32, Outcome> = BTreeMap::new();
    let mut settled: Vec<u32> = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = value(rule.action(), rule.errno_ret())?;
        let conditions =
            rule.args().iter().flatten().map(condition).collect::<Result<Vec<Condition>, Error>>()?;
        for number in rule.names().iter().filter_map(|name| machine.number(name)) {
            let outcome =
                all.entry(number).or_insert_with(|| Outcome { conditional: Vec::new(), otherwise: default });
            if !conditions.is_empty() {
                outcome.conditional.push((conditions.clone(), action));
            } else if !settled.contains(&number) {
                // Of two rules without conditions the first counts.
                settled.push(number);
                outcome.otherwise = action;
            }
        }
    }
    for outcome in all.values_mut() {
        while outcome.conditional.last().is_some_and(|(_, action)| *action == outcome.otherwise) {
            outcome.conditional.pop();
        }
    }
    Ok(all)
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    let index = u32::try_from(arg.index()).ok().filter(|i| *i < 6);
    Ok(Condition {
        index: index
            .ok_or_else(|| Error::Invalid(format!("seccomp: there is no argument {}", arg.index())))?,
        operator: arg.op(),
        value: arg.value(),
        second: arg.value_two().unwrap_or(0),
    })
}

/// The binary search over all numbers of one architecture; the number is loaded.
fn search(outcomes: &BTreeMap<u32, Outcome>, default: u32) -> Vec<Insn> {
    let plain = |action| Outcome { conditional: Vec::new(), otherwise: action };
    let mut ranges: Vec<(u32, Outcome)> = vec![(0, plain(default))];
    let mut push = |from: u32, outcome: Outcome| {
        if ranges.last().is_some_and(|(last, _)| *last == from) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, known)| *known != outcome) {
            ranges.push((from, outcome));
        }
    };
    for (number, outcome) in outcomes {
        push(*number, outcome.clone());
        push(number + 1, plain(default));
    }
    // Newer than the profile: "no such call" instead of "not permitted", where the default refuses.
    if let Some((last, _)) = outcomes.last_key_value()
        && (default & 0xffff_0000 == ERRNO || matches!(default, KILL_PROCESS | KILL_THREAD | TRAP))
    {
        push(last + 1, plain(ERRNO | libc::ENOSYS as u32));
    }
    tree(&ranges)
}

fn tree(ranges: &[(u32, Outcome)]) -> Vec<Insn> {
    match ranges {
        [] => Vec::new(),
        [(_, outcome)] => leaf(outcome),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            branch(JGE, high[0].0, tree(high), tree(low))
        }
    }
}

/// `yes` where the test holds, else `no`; neither falls through.
fn branch(test: u16, k: u32, yes: Vec<Insn>, no: Vec<Insn>) -> Vec<Insn> {
    let mut code = Vec::with_capacity(yes.len() + no.len() + 2);
    match u8::try_from(no.len()) {
        Ok(over) => code.push(insn(test, k, over, 0)),
        Err(_) => {
            code.push(insn(test, k, 0, 1));
            code.push(insn(JUMP, no.len() as u32, 0, 0));
        }
    }
    code.extend(no);
    code.extend(yes);
    code
}

fn leaf(outcome: &Outcome) -> Vec<Insn> {
    if let Some(code) = choice(outcome) {
        return code;
    }
    let mut code = Vec::new();
    for (conditions, action) in &outcome.conditional {
        let mut rule: Vec<Insn> = Vec::new();
        let mut fails: Vec<(usize, bool)> = Vec::new();
        for condition in conditions {
            test(condition, &mut rule, &mut fails);
        }
        rule.push(insn(RETURN, *action, 0, 0));
        let end = rule.len();
        for (at, when) in fails {
            // At most six conditions of seven instructions: the distance fits.
            let distance = (end - at - 1) as u8;
            if when {
                rule[at].yes = distance;
            } else {
                rule[at].no = distance;
            }
        }
        code.extend(rule);
    }
    code.push(insn(RETURN, outcome.otherwise, 0, 0));
    code
}

/// "One of these values": many rules for one argument, equal in all but the value, load it only once.
fn choice(outcome: &Outcome) -> Option<Vec<Insn>> {
    let (first, action) = outcome.conditional.first()?;
    let index = first.first()?.index;
    let mut tests: Vec<(u16, u32)> = Vec::new();
    for (conditions, other) in &outcome.conditional {
        let [condition] = conditions.as_slice() else { return None };
        let code = match condition.operator {
            LinuxSeccompOperator::ScmpCmpEq => JEQ,
            LinuxSeccompOperator::ScmpCmpLt => JGE,
            _ => return None,
        };
        if condition.index != index || other != action || condition.value >> 32 != 0 {
            return None;
        }
        tests.push((code, condition.value as u32));
    }
    if tests.len() < 2 {
        return None;
    }
    let low = ARGS + 8 * index;
    let count = tests.len();
    // load high; not 0? -> otherwise; load low; tests; otherwise; action
    let to_otherwise = u8::try_from(1 + count).ok()?;
    let mut code = vec![insn(LOAD, low + 4, 0, 0), insn(JEQ, 0, 0, to_otherwise), insn(LOAD, low, 0, 0)];
    for (at, (test, value)) in tests.into_iter().enumerate() {
        let to_action = (count - at) as u8;
        code.push(if test == JEQ { insn(JEQ, value, to_action, 0) } else { insn(JGE, value, 0, to_action) });
    }
    code.push(insn(RETURN, outcome.otherwise, 0, 0));
    code.push(insn(RETURN, *action, 0, 0));
    Some(code)
}

/// Falls through where the condition holds; else jumps to the rule's end (noted in `fails`: where, and on which answer).
fn test(condition: &Condition, rule: &mut Vec<Insn>, fails: &mut Vec<(usize, bool)>) {
    use LinuxSeccompOperator as Op;
    let low = ARGS + 8 * condition.index;
    let high = low + 4;
    let (value_high, value_low) = ((condition.value >> 32) as u32, condition.value as u32);
    let (second_high, second_low) = ((condition.second >> 32) as u32, condition.second as u32);
    let mut fail = |rule: &mut Vec<Insn>, code, k, on: bool| {
        fails.push((rule.len(), on));
        rule.push(insn(code, k, 0, 0));
    };
    rule.push(insn(LOAD, high, 0, 0));
    match condition.operator {
        Op::ScmpCmpEq => {
            fail(rule, JEQ, value_high, false);
            rule.push(insn(LOAD, low, 0, 0));
            fail(rule, JEQ, value_low, false);
        }
        Op::ScmpCmpNe => {
            rule.push(insn(JEQ, value_high, 0, 2));
            rule.push(insn(LOAD, low, 0, 0));
            fail(rule, JEQ, value_low, true);
        }
        Op::ScmpCmpGt | Op::ScmpCmpGe => {
            rule.push(insn(JGT, value_high, 3, 0));
            fail(rule, JEQ, value_high, false);
            rule.push(insn(LOAD, low, 0, 0));
            let code = if condition.operator == Op::ScmpCmpGt { JGT } else { JGE };
            fail(rule, code, value_low, false);
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            fail(rule, JGT, value_high, true);
            rule.push(insn(JEQ, value_high, 0, 2));
            rule.push(insn(LOAD, low, 0, 0));
            let code = if condition.operator == Op::ScmpCmpLt { JGE } else { JGT };
            fail(rule, code, value_low, true);
        }
        Op::ScmpCmpMaskedEq => {
            rule.push(insn(AND, value_high, 0, 0));
            fail(rule, JEQ, second_high, false);
            rule.push(insn(LOAD, low, 0, 0));
            rule.push(insn(AND, value_low, 0, 0));
            fail(rule, JEQ, second_low, false);
        }
    }
}
