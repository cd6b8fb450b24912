//! How often the guest asked for what: each request is a way from the guest's kernel here and back, which costs more than
//! what is done here. Whoever connects to the socket is told the counts as a JSON object, by FUSE's names.

use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long whoever asks may take to hear.
const HEARING: Duration = Duration::from_secs(5);

macro_rules! requests {
    ($($kind:ident $name:literal)*) => {
        /// Kinds of requests.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Request { $($kind),* }

        const NAMES: &[&str] = &[$($name),*];
    };
}

requests! {
    Access "access" Copy "copy_file_range" Create "create" Fallocate "fallocate" Flush "flush" Forget "forget"
    Fsync "fsync" Fsyncdir "fsyncdir" Getattr "getattr" Getxattr "getxattr" Link "link" Listxattr "listxattr"
    Lookup "lookup" Lseek "lseek" Mkdir "mkdir" Mknod "mknod" Open "open" Opendir "opendir" Read "read"
    Readdir "readdir" Readlink "readlink" Release "release" Releasedir "releasedir" Removexattr "removexattr"
    Rename "rename" Rmdir "rmdir" Setattr "setattr" Setxattr "setxattr" Statfs "statfs" Symlink "symlink"
    Syncfs "syncfs" Unlink "unlink" Write "write"
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Requests([AtomicU64; NAMES.len()]);

impl Default for Requests {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }
}

impl Requests {
    /// One more.
    pub(crate) fn add(&self, request: Request) {
        self.0[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that there were, as JSON.
    fn report(&self) -> String {
        let counts = NAMES.iter().zip(&self.0).map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let fields: Vec<String> =
            counts.filter(|(_, n)| *n > 0).map(|(name, n)| format!("\"{name}\":{n}")).collect();
        format!("{{{}}}\n", fields.join(","))
    }

    /// Tells whoever connects, for as long as this program runs.
    pub(crate) fn serve(self: Arc<Self>, listener: UnixListener) -> io::Result<()> {
        let work = move || {
            for mut stream in listener.incoming().flatten() {
                // Whoever has gone away need not hear.
                let _ = stream
                    .set_write_timeout(Some(HEARING))
                    .and_then(|()| stream.write_all(self.report().as_bytes()));
            }
        };
        std::thread::Builder::new().name("requests".into()).spawn(work).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_connects_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let requests = Arc::new(Requests::default());
        requests.clone().serve(UnixListener::bind(&path).unwrap()).unwrap();
        let ask = || {
            let mut said = String::new();
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            io::Read::read_to_string(&mut stream, &mut said).unwrap();
            said
        };
        assert_eq!(ask(), "{}\n");
        requests.add(Request::Access);
        requests.add(Request::Write);
        requests.add(Request::Write);
        assert_eq!(ask(), "{\"access\":1,\"write\":2}\n");
    }
}
