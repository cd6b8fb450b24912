//! vfkit's control over a unix socket (doc/usage.md@01d1d518da87, pkg/rest/rest.go@13f709788b9a): nothing but what it
//! has is answered.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use serde_json::{Value, json};

/// What a request is answered with: a code and a body.
pub type Answer = (u16, Value);

/// How answers end: gin's with their length, older krunkits' with a null and nothing that says how long they are
/// (src/status.rs@1b9e90370d74).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Length,
    Null,
}

/// Serves for ever.
pub fn serve(listener: &UnixListener, end: End, mut answer: impl FnMut(&str, &str, Value) -> Answer) {
    for stream in listener.incoming().flatten() {
        let _ = connection(stream, end, &mut answer);
    }
}

fn connection(
    stream: UnixStream,
    end: End,
    answer: &mut impl FnMut(&str, &str, Value) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut len = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (code, value) = answer(&method, &path, body);
    let text = if value.is_null() { String::new() } else { value.to_string() };
    let mut stream = stream;
    if end == End::Null {
        return write!(stream, "HTTP/1.1 {code} As said\r\nContent-type: application/json\r\n\r\n{text}\0");
    }
    write!(
        stream,
        "HTTP/1.1 {code} As said\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// An error as gin gives it.
pub fn refused(code: u16, why: &str) -> Answer {
    (code, json!({ "error": why }))
}
