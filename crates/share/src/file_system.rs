//! virtiofsd's file system, with owners and modes as recorded.
//!
//! All requests are done as the user who runs this program (virtiofsd changes its user only for a guest user that is
//! not root: every request is passed on as root's). Permissions were checked by the guest's kernel against what
//! [`Owned`] shows it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::soft_idmap::Id;

use crate::owner::{HOST, LENGTH, MODE, Owner, XATTR};

/// The wrapper.
pub(crate) struct Owned {
    inner: PassthroughFs,
    /// Who runs this program: files of anybody else on the host show as nobody's.
    user: u32,
}

/// Longest list of attribute names that Linux has (`XATTR_LIST_MAX`), bytes.
const XATTR_LIST_BYTES: u32 = 64 * 1024;
/// Owner of files on the host that are not the user's: the kernel's overflow id.
const NOBODY: u32 = 65534;

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;

/// Whether Linux keeps user attributes on such a file.
fn can_record(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

fn is_folder(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR
}

/// Every request is root's, to virtiofsd.
fn as_root(mut ctx: Context) -> Context {
    ctx.uid = 0.into();
    ctx.gid = 0.into();
    ctx
}

fn nobodys(extensions: Extensions) -> Extensions {
    Extensions { sup_gids: Vec::new(), ..extensions }
}

fn hidden(name: &CStr) -> bool {
    name == XATTR
}

impl Owned {
    pub(crate) fn new(inner: PassthroughFs) -> Self {
        // SAFETY-free: rustix is not among this crate's libraries, std has no geteuid; /proc/self is the user's.
        let user = rustix::process::geteuid().as_raw();
        Owned { inner, user }
    }

    fn recorded(&self, inode: Inode) -> Option<Owner> {
        let ctx = Context { uid: 0.into(), gid: 0.into(), pid: 0 };
        match self.inner.getxattr(ctx, inode, XATTR, LENGTH as u32) {
            Ok(GetxattrReply::Value(value)) => std::str::from_utf8(&value).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// As the guest is to see it.
    fn show(&self, inode: Inode, attr: &mut fuse::Attr) {
        let recorded = if can_record(attr.mode) { self.recorded(inode) } else { None };
        let owner = recorded.unwrap_or_else(|| {
            let own = attr.uid.into_inner() == self.user;
            let id = if own { HOST } else { NOBODY };
            Owner { uid: id, gid: id, mode: attr.mode & MODE }
        });
        attr.uid = owner.uid.into();
        attr.gid = owner.gid.into();
        attr.mode = (attr.mode & libc::S_IFMT) | owner.mode;
    }

    fn shown(&self, mut entry: Entry) -> Entry {
        if entry.inode != 0 {
            self.show(entry.inode, &mut entry.attr);
        }
        entry
    }

    fn record(&self, inode: Inode, owner: Owner) -> io::Result<()> {
        let ctx = Context { uid: 0.into(), gid: 0.into(), pid: 0 };
        self.inner.setxattr(ctx, inode, XATTR, owner.to_string().as_bytes(), 0, SetxattrFlags::empty())
    }

    /// Records who made a new file; a file that cannot be recorded (a file system without attributes) stays the
    /// host user's.
    fn made(&self, mut entry: Entry, ctx: &Context, parent: Inode, mode: u32) -> Entry {
        if can_record(entry.attr.mode) {
            let mut owner = Owner { uid: ctx.uid.into_inner(), gid: ctx.gid.into_inner(), mode: mode & MODE };
            // A set-group-id folder hands its group down (inode(7)); the file system is to do so, not its client.
            if let Some(above) = self.recorded(parent).filter(|o| o.mode & libc::S_ISGID != 0) {
                owner.gid = above.gid;
                if is_folder(entry.attr.mode) {
                    owner.mode |= libc::S_ISGID;
                }
            }
            // Best effort, see above.
            let _ = self.record(entry.inode, owner);
        }
        self.show(entry.inode, &mut entry.attr);
        entry
    }

    /// Writing by someone without privileges takes set-id bits away.
    fn without_set_id(&self, inode: Inode) {
        if let Some(mut owner) = self.recorded(inode)
            && owner.mode & (libc::S_ISUID | libc::S_ISGID) != 0
        {
            owner.mode &= !(libc::S_ISUID | libc::S_ISGID);
            // The write itself goes on either way.
            let _ = self.record(inode, owner);
        }
    }
}

/// Passes operations on as they are, as root's.
macro_rules! pass {
    ($(fn $name:ident$(<$($gen:ident: $bound:path),*>)?($ctx:ident $(, $par:ident: $type:ty)*) $(-> $ret:ty)?;)*) => {
        $(fn $name$(<$($gen: $bound),*>)?(&self, $ctx: Context $(, $par: $type)*) $(-> $ret)? {
            self.inner.$name(as_root($ctx) $(, $par)*)
        })*
    };
}

impl FileSystem for Owned {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.inner.init(capable)
    }

    fn destroy(&self) {
        self.inner.destroy();
    }

    pass! {
        fn forget(ctx, inode: Inode, count: u64);
        fn batch_forget(ctx, requests: Vec<(Inode, u64)>);
        fn readlink(ctx, inode: Inode) -> io::Result<Vec<u8>>;
        fn unlink(ctx, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rmdir(ctx, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rename(ctx, from: Inode, name: &CStr, to: Inode, new: &CStr, flags: u32) -> io::Result<()>;
        fn read<W: ZeroCopyWriter>(ctx, inode: Inode, handle: Handle, w: W, size: u32, offset: u64,
            lock_owner: Option<u64>, flags: u32) -> io::Result<usize>;
        fn flush(ctx, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fsync(ctx, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn fallocate(ctx, inode: Inode, handle: Handle, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn release(ctx, inode: Inode, flags: u32, handle: Handle, flush: bool, flock_release: bool,
            lock_owner: Option<u64>) -> io::Result<()>;
        fn statfs(ctx, inode: Inode) -> io::Result<libc::statvfs64>;
        fn opendir(ctx, inode: Inode, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn readdir(ctx, inode: Inode, handle: Handle, size: u32, offset: u64) -> io::Result<Self::DirIter>;
        fn fsyncdir(ctx, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn releasedir(ctx, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn access(ctx, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(ctx, inode: Inode, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
        fn copyfilerange(ctx, inode_in: Inode, handle_in: Handle, offset_in: u64, inode_out: Inode,
            handle_out: Handle, offset_out: u64, len: u64, flags: u64) -> io::Result<usize>;
        fn syncfs(ctx, inode: Inode) -> io::Result<()>;
    }

    fn lookup(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.inner.lookup(as_root(ctx), parent, name).map(|e| self.shown(e))
    }

    fn getattr(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Option<Handle>,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let (mut attr, valid) = self.inner.getattr(as_root(ctx), inode, handle)?;
        self.show(inode, &mut attr);
        Ok((attr, valid))
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        mut attr: fuse::SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let ownership = SetattrValid::UID | SetattrValid::GID | SetattrValid::MODE;
        let mut on_host = valid;
        if valid.intersects(ownership) {
            let (now, _) = self.getattr(ctx, inode, None)?;
            on_host.remove(SetattrValid::UID | SetattrValid::GID);
            if can_record(now.mode) {
                let mut owner =
                    Owner { uid: now.uid.into_inner(), gid: now.gid.into_inner(), mode: now.mode & MODE };
                if valid.contains(SetattrValid::UID) {
                    owner.uid = attr.uid.into_inner();
                }
                if valid.contains(SetattrValid::GID) {
                    owner.gid = attr.gid.into_inner();
                }
                if valid.contains(SetattrValid::MODE) {
                    owner.mode = attr.mode & MODE;
                }
                self.record(inode, owner)?;
                attr.mode = Owner::host_mode(owner.mode, is_folder(now.mode));
            }
            if !on_host.intersects(SetattrValid::all() - ownership) && !on_host.contains(SetattrValid::MODE) {
                // Asked for anew: the kernel is to see the change of its time that a real chown makes.
                return self.getattr(ctx, inode, handle);
            }
        }
        if valid.contains(SetattrValid::KILL_SUIDGID) {
            self.without_set_id(inode);
        }
        let (mut attr, belief) = self.inner.setattr(as_root(ctx), inode, attr, handle, on_host)?;
        self.show(inode, &mut attr);
        Ok((attr, belief))
    }

    fn symlink(
        &self,
        ctx: Context,
        linkname: &CStr,
        parent: Inode,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let made = self.inner.symlink(as_root(ctx), linkname, parent, name, nobodys(extensions))?;
        Ok(self.shown(made))
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let host = (mode & libc::S_IFMT) | Owner::host_mode(mode & !umask, false);
        let made = self.inner.mknod(as_root(ctx), parent, name, host, rdev, 0, nobodys(extensions))?;
        Ok(self.made(made, &ctx, parent, mode & !umask))
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let host = Owner::host_mode(mode & !umask, true);
        let made = self.inner.mkdir(as_root(ctx), parent, name, host, 0, nobodys(extensions))?;
        Ok(self.made(made, &ctx, parent, mode & !umask))
    }

    fn link(&self, ctx: Context, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.inner.link(as_root(ctx), inode, parent, name).map(|e| self.shown(e))
    }

    fn open(
        &self,
        ctx: Context,
        inode: Inode,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        if kill_priv {
            self.without_set_id(inode);
        }
        self.inner.open(as_root(ctx), inode, kill_priv, flags)
    }

    fn create(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        // One that is there already keeps its owner.
        let there = self.inner.lookup(as_root(ctx), parent, name);
        let new = match &there {
            Ok(entry) => {
                self.inner.forget(as_root(ctx), entry.inode, 1);
                false
            }
            Err(_) => true,
        };
        let host = Owner::host_mode(mode & !umask, false);
        let (entry, handle, options) =
            self.inner.create(as_root(ctx), parent, name, host, kill_priv, flags, 0, nobodys(extensions))?;
        let entry = if new { self.made(entry, &ctx, parent, mode & !umask) } else { self.shown(entry) };
        Ok((entry, handle, options))
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        if kill_priv {
            self.without_set_id(inode);
        }
        self.inner.write(
            as_root(ctx),
            inode,
            handle,
            r,
            size,
            offset,
            lock_owner,
            delayed_write,
            kill_priv,
            flags,
        )
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        if hidden(name) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        self.inner.setxattr(as_root(ctx), inode, name, value, flags, extra_flags)
    }

    fn getxattr(&self, ctx: Context, inode: Inode, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        if hidden(name) {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        self.inner.getxattr(as_root(ctx), inode, name, size)
    }

    fn listxattr(&self, ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply> {
        // Asked for whole: a count would count ours.
        let ListxattrReply::Names(names) = self.inner.listxattr(as_root(ctx), inode, XATTR_LIST_BYTES)?
        else {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        };
        let ours = XATTR.to_bytes();
        let shown: Vec<u8> = names
            .split(|b| *b == 0)
            .filter(|n| !n.is_empty() && *n != ours)
            .flat_map(|n| n.iter().copied().chain([0]))
            .collect();
        match size {
            0 => Ok(ListxattrReply::Count(shown.len() as u32)),
            n if (n as usize) < shown.len() => Err(io::Error::from_raw_os_error(libc::ERANGE)),
            _ => Ok(ListxattrReply::Names(shown)),
        }
    }

    fn removexattr(&self, ctx: Context, inode: Inode, name: &CStr) -> io::Result<()> {
        if hidden(name) {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        self.inner.removexattr(as_root(ctx), inode, name)
    }
}

impl SerializableFileSystem for Owned {
    fn prepare_serialization(&self, cancel: Arc<AtomicBool>) {
        self.inner.prepare_serialization(cancel);
    }

    fn serialize(&self, state_pipe: File) -> io::Result<()> {
        self.inner.serialize(state_pipe)
    }

    fn deserialize_and_apply(&self, state_pipe: File) -> io::Result<()> {
        self.inner.deserialize_and_apply(state_pipe)
    }
}
