//! `bpf(2)` for device programs: load, attach to a group, detach.

use super::check;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::io;

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// How often a load that a signal interrupted is tried.
const LOAD_ATTEMPTS: u32 = 16;
/// Several programs may be attached: all must allow.
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    _relative: u32,
    _revision: u64,
}

fn bpf<T>(command: i32, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: attr is a prefix of union bpf_attr for this command, its size is given, and what it points at lives on
    // in the caller.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) })
}

/// Verifies and loads a device program (8-byte eBPF instructions).
pub(crate) fn load_device_program(code: &[u8]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: (code.len() / 8) as u32,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    attr.prog_name[..7].copy_from_slice(b"coracle");
    let mut attempts = LOAD_ATTEMPTS;
    let fd = loop {
        match bpf(BPF_PROG_LOAD, &attr) {
            // The verifier gives way to a pending signal.
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && attempts > 1 => attempts -= 1,
            done => break done?,
        }
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches `program` to the group, beside what is attached already: all must allow.
pub(crate) fn attach_device_program(group: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attr = AttachAttr {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_ATTACH, &attr).map(drop)
}

/// Detaches `program` from the group.
pub(crate) fn detach_device_program(group: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attr = AttachAttr {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_DETACH, &attr).map(drop)
}

const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
/// Programs that may be attached to one group: the kernel's own limit.
const MAX_ATTACHED: usize = 64;

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
}

/// The ids of the device programs attached to the group itself.
pub(crate) fn attached_device_programs(group: impl AsFd) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_ATTACHED];
    let mut attr = QueryAttr {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_ATTACHED as u32,
        ..QueryAttr::default()
    };
    // SAFETY: attr is a prefix of union bpf_attr for this command, and ids has room for prog_cnt numbers.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<QueryAttr>()) })?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// The kernel's id of a loaded program.
pub(crate) fn program_id(program: impl AsFd) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
    }
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let attr = InfoAttr {
        fd: program.as_fd().as_raw_fd() as u32,
        len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    // SAFETY: the kernel has written into info behind the compiler's back.
    Ok(unsafe { std::ptr::read_volatile(&raw const info.id) })
}

/// A descriptor of the program with that id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct IdAttr {
        id: u32,
        next: u32,
        flags: u32,
    }
    let fd = bpf(BPF_PROG_GET_FD_BY_ID, &IdAttr { id, next: 0, flags: 0 })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
