//! A client of Docker's API as others are: opens a named pipe by its path, asks one thing, prints the answer's body.
//! For `cargo xtask check --all-targets-os`, which has no other client that is a program of Windows.
//!
//!     pipe_get PIPE METHOD PATH [BODY]

use std::io::{Error, Read, Write};

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (pipe, method, path, body) = match &words[..] {
        [pipe, method, path] => (pipe, method, path, ""),
        [pipe, method, path, body] => (pipe, method, path, body.as_str()),
        _ => return Err(Error::other("usage: pipe_get PIPE METHOD PATH [BODY]")),
    };
    let mut pipe = std::fs::OpenOptions::new().read(true).write(true).open(pipe)?;
    write!(pipe, "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    // An empty message: nothing more is asked.
    let _ = pipe.write(&[])?;
    let mut answer = Vec::new();
    let ended = pipe.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text.split_once("\r\n\r\n").ok_or_else(|| Error::other(format!("{ended:?}: {text}")))?;
    println!("{body}");
    Ok(())
}
