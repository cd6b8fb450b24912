//! virtiofsd's file system, with owners and modes as recorded.
//!
//! All requests are done as the user who runs this program (virtiofsd changes its user only for a guest user that is
//! not root: every request is passed on as root's). Permissions were checked by the guest's kernel against what
//! [`Owned`] shows it.
//!
//! What one thread of the guest asks for was done by the host already ([`crate::changes`]): it is answered, never done.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::soft_idmap::Id;

use wire::changes::{ECHO_GROUP, ECHO_NAME, What};

use crate::changes::{Deed, Watch};
use crate::owner::{HOST, LENGTH, MODE, Owner, XATTR};
use crate::requests::{Request, Requests};

/// The wrapper.
pub(crate) struct Owned {
    inner: PassthroughFs,
    /// Who runs this program: files of anybody else on the host show as nobody's.
    user: u32,
    watch: Arc<Watch>,
    /// The thread of the guest that repeats what the host did. The kernel tells a request's group only where something
    /// is made (it allows mapped mounts), its thread everywhere. Told once, before there are containers.
    echo: OnceLock<i32>,
    /// Numbers for what is gone, while the guest echoes its going.
    ghosts: AtomicU64,
    requests: Arc<Requests>,
    /// The last close of a file may tell what its writes did not: then each close is asked for.
    closing_tells: bool,
}

/// The shared folder's own number.
pub(crate) const ROOT: Inode = fuse::ROOT_ID;
/// Numbers from here on are of what is gone.
const GHOSTS: Inode = 1 << 63;

/// Longest list of attribute names that Linux has (`XATTR_LIST_MAX`), bytes.
const XATTR_LIST_BYTES: u32 = 64 * 1024;
/// Owner of files on the host that are not the user's: the kernel's overflow id.
const NOBODY: u32 = 65534;

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;

/// Whether the last close of a file in this folder may tell what its writes did not (no room, no rights): over a
/// network, where data is sent late.
pub(crate) fn tells_when_closed(folder: &Path) -> io::Result<bool> {
    /// NFS, SMB (three of them), 9p, FUSE, Ceph, AFS, Coda: `linux/magic.h` and the file systems' own.
    const LATE: [i64; 9] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x0102_1997,
        0x6573_5546,
        0x00c3_6400,
        0x5346_414f,
        0x7375_7245,
    ];
    Ok(LATE.contains(&rustix::fs::statfs(folder)?.f_type))
}

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

fn denied() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

fn nobodys(extensions: Extensions) -> Extensions {
    Extensions { sup_gids: Vec::new(), ..extensions }
}

/// Whether a file opened so can be written to.
fn writes(flags: u32) -> bool {
    flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
}

fn hidden(name: &CStr) -> bool {
    name == XATTR
}

impl Owned {
    /// `closing_tells`: see [`tells_when_closed`].
    pub(crate) fn new(
        inner: PassthroughFs,
        watch: Arc<Watch>,
        requests: Arc<Requests>,
        closing_tells: bool,
    ) -> Self {
        // SAFETY-free: rustix is not among this crate's libraries, std has no geteuid; /proc/self is the user's.
        let user = rustix::process::geteuid().as_raw();
        Owned {
            inner,
            user,
            watch,
            echo: OnceLock::new(),
            ghosts: AtomicU64::new(GHOSTS),
            requests,
            closing_tells,
        }
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

    /// An entry of a folder as it is given to the guest.
    fn shown(&self, parent: Inode, name: &CStr, mut entry: Entry) -> Entry {
        if entry.inode != 0 {
            if is_folder(entry.attr.mode) {
                self.watch.looked_up(parent, name, entry.inode);
            }
            self.show(entry.inode, &mut entry.attr);
        }
        entry
    }

    /// A file as it is shown to the guest, and how long that holds.
    fn attributes(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Option<Handle>,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let (mut attr, valid) = self.inner.getattr(as_root(ctx), inode, handle)?;
        self.show(inode, &mut attr);
        Ok((attr, valid))
    }

    fn forgotten(&self, ctx: Context, inode: Inode, count: u64) {
        if inode < GHOSTS {
            self.watch.forgotten(inode, count);
            self.inner.forget(as_root(ctx), inode, count);
        }
    }

    /// Whether it only repeats what the host did.
    fn is_echo(&self, ctx: &Context) -> bool {
        self.echo.get() == Some(&ctx.pid)
    }

    /// Refuses what no echo is.
    fn no_echo(&self, ctx: &Context) -> io::Result<()> {
        if self.is_echo(ctx) { Err(denied()) } else { Ok(()) }
    }

    /// What is gone, shown once more so that it can go in the guest's eyes.
    fn ghost(&self, folder: bool) -> Entry {
        let number = self.ghosts.fetch_add(1, Ordering::Relaxed);
        let kind = if folder { libc::S_IFDIR } else { libc::S_IFREG };
        let attr = fuse::Attr { ino: number, mode: kind | 0o700, nlink: 1, ..fuse::Attr::default() };
        Entry {
            inode: number,
            generation: 0,
            attr,
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
        }
    }

    /// The answer to an echo of something made.
    fn echo_made(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        let told = self.watch.told(parent, name);
        if !matches!(told, Some(What::FileMade | What::FolderMade | What::LinkMade)) {
            return Err(denied());
        }
        self.watch.echoed(parent, name);
        let entry = self.inner.lookup(as_root(ctx), parent, name)?;
        Ok(self.shown(parent, name, entry))
    }

    /// The answer to an echo of something gone.
    fn echo_gone(&self, parent: Inode, name: &CStr) -> io::Result<()> {
        if !matches!(self.watch.told(parent, name), Some(What::FileGone | What::FolderGone)) {
            return Err(denied());
        }
        self.watch.echoed(parent, name);
        Ok(())
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

/// What reading a folder on fails with. One that was removed meanwhile has no place any more to read on from: ext4 calls that
/// an invalid one, where reading itself would say that there is no such folder, which programs take for its end.
fn gone_at(offset: u64, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) if offset > 0 => io::Error::from_raw_os_error(libc::ENOENT),
        _ => error,
    }
}

/// Passes operations on as they are, as root's.
macro_rules! pass {
    ($($kind:ident fn $name:ident$(<$($gen:ident: $bound:path),*>)?($ctx:ident $(, $par:ident: $type:ty)*) $(-> $ret:ty)?;)*) => {
        $(fn $name$(<$($gen: $bound),*>)?(&self, $ctx: Context $(, $par: $type)*) $(-> $ret)? {
            self.requests.add(Request::$kind);
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
        Readlink fn readlink(ctx, inode: Inode) -> io::Result<Vec<u8>>;
        Read fn read<W: ZeroCopyWriter>(ctx, inode: Inode, handle: Handle, w: W, size: u32, offset: u64,
            lock_owner: Option<u64>, flags: u32) -> io::Result<usize>;
        Fsync fn fsync(ctx, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        Statfs fn statfs(ctx, inode: Inode) -> io::Result<libc::statvfs64>;
        Opendir fn opendir(ctx, inode: Inode, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
        Fsyncdir fn fsyncdir(ctx, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        Releasedir fn releasedir(ctx, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        Access fn access(ctx, inode: Inode, mask: u32) -> io::Result<()>;
        Lseek fn lseek(ctx, inode: Inode, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
        Syncfs fn syncfs(ctx, inode: Inode) -> io::Result<()>;
    }

    fn readdir(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        offset: u64,
    ) -> io::Result<Self::DirIter> {
        self.requests.add(Request::Readdir);
        self.inner.readdir(as_root(ctx), inode, handle, size, offset).map_err(|e| gone_at(offset, e))
    }

    fn flush(&self, ctx: Context, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()> {
        self.requests.add(Request::Flush);
        if !self.closing_tells {
            // The kernel asks no more: a close then is no way here and back. What was written is written already.
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        self.inner.flush(as_root(ctx), inode, handle, lock_owner)
    }

    fn lookup(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.requests.add(Request::Lookup);
        if self.is_echo(&ctx) {
            match self.watch.told(parent, name) {
                // Not there yet, or there still, in the eyes of whoever is about to repeat it.
                Some(What::FileMade | What::FolderMade | What::LinkMade) => {
                    return Err(io::Error::from_raw_os_error(libc::ENOENT));
                }
                Some(gone @ (What::FileGone | What::FolderGone)) => {
                    return Ok(self.ghost(gone == What::FolderGone));
                }
                Some(What::Written) | None => {}
            }
        }
        let entry = self.inner.lookup(as_root(ctx), parent, name)?;
        Ok(self.shown(parent, name, entry))
    }

    fn forget(&self, ctx: Context, inode: Inode, count: u64) {
        self.requests.add(Request::Forget);
        self.forgotten(ctx, inode, count);
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(Inode, u64)>) {
        self.requests.add(Request::Forget);
        requests.into_iter().for_each(|(inode, count)| self.forgotten(ctx, inode, count));
    }

    fn unlink(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        self.requests.add(Request::Unlink);
        if self.is_echo(&ctx) {
            return self.echo_gone(parent, name);
        }
        let deeds = [(parent, name, Deed::Gone)];
        self.watch.doing(&deeds, || self.inner.unlink(as_root(ctx), parent, name))
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        self.requests.add(Request::Rmdir);
        if self.is_echo(&ctx) {
            return self.echo_gone(parent, name);
        }
        let deeds = [(parent, name, Deed::Gone)];
        self.watch.doing(&deeds, || self.inner.rmdir(as_root(ctx), parent, name))
    }

    fn rename(
        &self,
        ctx: Context,
        from: Inode,
        name: &CStr,
        to: Inode,
        new: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.requests.add(Request::Rename);
        self.no_echo(&ctx)?;
        let (gone, made) = ((from, name, Deed::Gone), (to, new, Deed::Made));
        // An exchange moves both.
        let back = [gone, made, (to, new, Deed::Gone), (from, name, Deed::Made)];
        let deeds = if flags & libc::RENAME_EXCHANGE != 0 { &back[..] } else { &back[..2] };
        self.watch.doing(deeds, || self.inner.rename(as_root(ctx), from, name, to, new, flags))
    }

    fn fallocate(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.requests.add(Request::Fallocate);
        self.no_echo(&ctx)?;
        let done = self.inner.fallocate(as_root(ctx), inode, handle, mode, offset, length);
        self.watch.wrote(handle);
        done
    }

    fn release(
        &self,
        ctx: Context,
        inode: Inode,
        flags: u32,
        handle: Handle,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.requests.add(Request::Release);
        let ctx = as_root(ctx);
        let done = self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner);
        self.watch.closed(handle);
        done
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: Inode,
        handle_in: Handle,
        offset_in: u64,
        inode_out: Inode,
        handle_out: Handle,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.requests.add(Request::Copy);
        self.no_echo(&ctx)?;
        let ctx = as_root(ctx);
        let done = self.inner.copyfilerange(
            ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags,
        );
        self.watch.wrote(handle_out);
        done
    }

    fn getattr(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Option<Handle>,
    ) -> io::Result<(fuse::Attr, Duration)> {
        self.requests.add(Request::Getattr);
        self.attributes(ctx, inode, handle)
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        mut attr: fuse::SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        self.requests.add(Request::Setattr);
        let ownership = SetattrValid::UID | SetattrValid::GID | SetattrValid::MODE;
        if self.is_echo(&ctx) {
            // "Written to": an echo asks for a new time, and is shown the one that the host's write gave.
            if valid.intersects(ownership | SetattrValid::SIZE | SetattrValid::ATIME) {
                return Err(denied());
            }
            return self.attributes(ctx, inode, handle);
        }
        let mut on_host = valid;
        if valid.intersects(ownership) {
            let (now, _) = self.attributes(ctx, inode, None)?;
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
                return self.attributes(ctx, inode, handle);
            }
        }
        if valid.contains(SetattrValid::KILL_SUIDGID) {
            self.without_set_id(inode);
        }
        let (mut attr, belief) = self.inner.setattr(as_root(ctx), inode, attr, handle, on_host)?;
        if valid.contains(SetattrValid::SIZE) {
            self.watch.wrote_to(attr.ino);
        }
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
        self.requests.add(Request::Symlink);
        if self.is_echo(&ctx) {
            return self.echo_made(ctx, parent, name);
        }
        let made = self.watch.doing(&[(parent, name, Deed::Made)], || {
            self.inner.symlink(as_root(ctx), linkname, parent, name, nobodys(extensions))
        })?;
        Ok(self.shown(parent, name, made))
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
        self.requests.add(Request::Mknod);
        if parent == ROOT && name == ECHO_NAME && ctx.gid.into_inner() == ECHO_GROUP {
            let _ = self.echo.set(ctx.pid); // the first is the guest's own
            return Err(denied());
        }
        if self.is_echo(&ctx) {
            return self.echo_made(ctx, parent, name);
        }
        let host = (mode & libc::S_IFMT) | Owner::host_mode(mode & !umask, false);
        let made = self.watch.doing(&[(parent, name, Deed::Made)], || {
            self.inner.mknod(as_root(ctx), parent, name, host, rdev, 0, nobodys(extensions))
        })?;
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
        self.requests.add(Request::Mkdir);
        if self.is_echo(&ctx) {
            return self.echo_made(ctx, parent, name);
        }
        let host = Owner::host_mode(mode & !umask, true);
        let made = self.watch.doing(&[(parent, name, Deed::Made)], || {
            self.inner.mkdir(as_root(ctx), parent, name, host, 0, nobodys(extensions))
        })?;
        self.watch.looked_up(parent, name, made.inode);
        Ok(self.made(made, &ctx, parent, mode & !umask))
    }

    fn link(&self, ctx: Context, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.requests.add(Request::Link);
        self.no_echo(&ctx)?;
        let deeds = [(parent, name, Deed::Made)];
        let made = self.watch.doing(&deeds, || self.inner.link(as_root(ctx), inode, parent, name))?;
        Ok(self.shown(parent, name, made))
    }

    fn open(
        &self,
        ctx: Context,
        inode: Inode,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        self.requests.add(Request::Open);
        if self.is_echo(&ctx) {
            if flags & libc::O_TRUNC as u32 != 0 {
                return Err(denied());
            }
            // Never for writing here, whatever it is in the guest: the host could not run a program that it has just
            // built as long as somebody might write to it (ETXTBSY).
            let flags = flags & !(libc::O_ACCMODE as u32) | libc::O_RDONLY as u32;
            return self.inner.open(as_root(ctx), inode, false, flags);
        }
        if kill_priv {
            self.without_set_id(inode);
        }
        let (handle, options) = self.inner.open(as_root(ctx), inode, kill_priv, flags)?;
        if let Some(handle) = handle
            && writes(flags)
        {
            let file = self.inner.getattr(as_root(ctx), inode, Some(handle))?.0.ino;
            self.watch.opened(handle, file);
            if flags & libc::O_TRUNC as u32 != 0 {
                self.watch.wrote(handle);
            }
        }
        Ok((handle, options))
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
        self.requests.add(Request::Create);
        self.no_echo(&ctx)?;
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
        let create =
            || self.inner.create(as_root(ctx), parent, name, host, kill_priv, flags, 0, nobodys(extensions));
        let deeds = [(parent, name, Deed::Made)];
        let (entry, handle, options) = self.watch.doing(if new { &deeds } else { &[] }, create)?;
        if let Some(handle) = handle.filter(|_| writes(flags)) {
            self.watch.opened(handle, entry.attr.ino);
            self.watch.wrote(handle);
        }
        let entry = match new {
            true => self.made(entry, &ctx, parent, mode & !umask),
            false => self.shown(parent, name, entry),
        };
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
        self.requests.add(Request::Write);
        if kill_priv {
            self.without_set_id(inode);
        }
        self.no_echo(&ctx)?;
        let done = self.inner.write(
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
        );
        self.watch.wrote(handle);
        done
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
        self.requests.add(Request::Setxattr);
        if hidden(name) || self.is_echo(&ctx) {
            return Err(denied());
        }
        self.inner.setxattr(as_root(ctx), inode, name, value, flags, extra_flags)
    }

    fn getxattr(&self, ctx: Context, inode: Inode, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.requests.add(Request::Getxattr);
        if hidden(name) {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        self.inner.getxattr(as_root(ctx), inode, name, size)
    }

    fn listxattr(&self, ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply> {
        self.requests.add(Request::Listxattr);
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
        self.requests.add(Request::Removexattr);
        self.no_echo(&ctx)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_went_while_it_was_read_is_no_such_folder() {
        let of = |offset, code| gone_at(offset, io::Error::from_raw_os_error(code)).raw_os_error();
        assert_eq!(of(i64::MAX as u64, libc::EINVAL), Some(libc::ENOENT));
        assert_eq!(of(0, libc::EINVAL), Some(libc::EINVAL));
        assert_eq!(of(1, libc::EIO), Some(libc::EIO));
    }
}
