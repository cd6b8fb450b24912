//! Access lists: everything of a home is for its user alone.

use std::{ffi::c_void, io, path::Path, ptr::null_mut};

use windows_sys::Win32::{
    Foundation::{CloseHandle, HANDLE, LocalFree},
    Security::{
        Authorization::{
            ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo,
            SDDL_REVISION_1, SE_KERNEL_OBJECT,
        },
        DACL_SECURITY_INFORMATION, EqualSid, GetTokenInformation, OWNER_SECURITY_INFORMATION,
        PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID, SECURITY_ATTRIBUTES,
        SetFileSecurityW, TOKEN_QUERY, TOKEN_USER, TokenUser,
    },
    System::Threading::{GetCurrentProcess, OpenProcessToken},
};

/// Bytes that a token's user takes at most: the structure, and a SID of the longest kind.
const USER_BYTES: usize = 256;

/// This process' user.
struct User {
    // Of u64, so that the structure in it is aligned; on the heap, for it has a pointer into itself.
    bytes: Box<[u64; USER_BYTES / 8]>,
}

impl User {
    fn current() -> io::Result<Self> {
        let mut token: HANDLE = null_mut();
        // SAFETY: the process' own handle needs no closing; the token's is closed below.
        check(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) })?;
        let (mut user, mut len) = (Self { bytes: Box::new([0; USER_BYTES / 8]) }, 0);
        // SAFETY: the buffer has as many bytes as it is said to have, and lives through the call.
        let got = check(unsafe {
            GetTokenInformation(token, TokenUser, user.bytes.as_mut_ptr().cast(), USER_BYTES as u32, &mut len)
        });
        // SAFETY: the handle is ours and open.
        unsafe { CloseHandle(token) };
        got.map(|()| user)
    }

    fn sid(&self) -> PSID {
        // SAFETY: GetTokenInformation filled the buffer with this structure, whose pointer leads into it.
        unsafe { (*self.bytes.as_ptr().cast::<TOKEN_USER>()).User.Sid }
    }

    /// `S-1-5-21-...`
    fn text(&self) -> io::Result<String> {
        let mut text = null_mut();
        // SAFETY: the SID is valid; the string that comes back is freed below.
        check(unsafe { ConvertSidToStringSidW(self.sid(), &mut text) })?;
        // SAFETY: the string ends in a null.
        let len = (0..).take_while(|at| unsafe { *text.add(*at) } != 0).count();
        // SAFETY: so many characters are there.
        let found = String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, len) });
        // SAFETY: it was allocated for us.
        unsafe { LocalFree(text.cast()) };
        Ok(found)
    }
}

/// A list that lets this user do everything and nobody else anything. `inherit`: what is made below has it as well, and
/// Windows itself may do everything: its services do what WSL does with a distribution's folder, and look for viruses.
pub struct Private {
    descriptor: PSECURITY_DESCRIPTOR,
}

// SAFETY: the descriptor is memory that nobody writes to.
unsafe impl Send for Private {}
// SAFETY: as above.
unsafe impl Sync for Private {}

impl Private {
    pub fn new(inherit: bool) -> io::Result<Self> {
        let text = words(&User::current()?.text()?, inherit);
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor = null_mut();
        // SAFETY: the text ends in a null; what comes back is freed when dropped.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                null_mut(),
            )
        })?;
        Ok(Self { descriptor })
    }

    /// For functions that make something; valid while this lives.
    pub fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.descriptor,
            bInheritHandle: 0,
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: it was allocated for us.
        unsafe { LocalFree(self.descriptor) };
    }
}

/// The list in words (SDDL).
fn words(user: &str, inherit: bool) -> String {
    // Owned by the user, also where an elevated program's things would be the administrators'.
    match inherit {
        true => format!("O:{user}D:P(A;OICI;FA;;;{user})(A;OICI;FA;;;SY)"),
        false => format!("O:{user}D:P(A;;FA;;;{user})"),
    }
}

/// Makes a folder this user's alone.
pub fn private(folder: &Path) -> io::Result<()> {
    let (list, path) = (Private::new(true)?, super::wide(folder));
    let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
    // SAFETY: the path ends in a null, the list lives through the call.
    check(unsafe { SetFileSecurityW(path.as_ptr(), what, list.descriptor) })
}

/// Whether a pipe is this user's: another's of the same name must not be talked to.
pub fn is_own_pipe(pipe: *mut c_void) -> io::Result<bool> {
    let (mut owner, mut descriptor) = (null_mut(), null_mut());
    // SAFETY: the handle is open; the descriptor that comes back, which the owner is part of, is freed below.
    code_to_result(unsafe {
        GetSecurityInfo(
            pipe,
            SE_KERNEL_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &mut owner,
            null_mut(),
            null_mut(),
            null_mut(),
            &mut descriptor,
        )
    })?;
    let user = User::current();
    // SAFETY: both are valid SIDs.
    let own = user.map(|user| unsafe { EqualSid(owner, user.sid()) } != 0);
    // SAFETY: it was allocated for us.
    unsafe { LocalFree(descriptor) };
    own
}

fn check(done: i32) -> io::Result<()> {
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn code_to_result(code: u32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code as i32)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_the_users_and_windows_own_pipes_the_users_alone() {
        assert_eq!(words("S-1-5-21-7", true), "O:S-1-5-21-7D:P(A;OICI;FA;;;S-1-5-21-7)(A;OICI;FA;;;SY)");
        assert_eq!(words("S-1-5-21-7", false), "O:S-1-5-21-7D:P(A;;FA;;;S-1-5-21-7)");
        Private::new(true).and(Private::new(false)).unwrap();
    }

    #[test]
    fn a_folder_of_the_users_alone_is_still_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("private");
        std::fs::create_dir(&folder).unwrap();
        private(&folder).unwrap();
        std::fs::write(folder.join("file"), "x").unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("file")).unwrap(), "x");
        assert!(User::current().unwrap().text().unwrap().starts_with("S-1-"));
    }
}
