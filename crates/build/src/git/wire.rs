//! Git's protocol, the side that fetches (`gitprotocol-v2(5)`; `gitprotocol-pack(5)` for servers that know no other):
//! what a remote has, and the objects of one commit.
//!
//! Over HTTP each question is a request; over ssh and `git://` all go through one stream.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::pack::Id;
use crate::Error;
use crate::error::Kind;
use crate::worker::{WebRequest, Worker};

/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(120);
/// Most refs of a remote.
const REFS: usize = 1_000_000;
/// Largest pack, in bytes.
const PACK: u64 = 32 << 30;
/// Port of `git://`.
const PORT: u16 = 9418;
const VERSION: &str = "version=2";
const AGENT: &str = concat!("agent=coracle/", env!("CARGO_PKG_VERSION"));

type Input = Pin<Box<dyn AsyncRead + Send>>;

/// A ref of a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ref {
    pub id: Id,
    /// `refs/heads/main`, `HEAD`
    pub name: String,
    /// What an annotated tag is of.
    pub peeled: Option<Id>,
}

enum Link<'a, W: Worker> {
    Web {
        worker: &'a W,
        base: String,
        headers: Vec<(String, String)>,
    },
    Stream {
        input: BufReader<Input>,
        output: Pin<Box<dyn AsyncWrite + Send>>,
        _child: Option<Box<tokio::process::Child>>,
    },
}

/// A remote that has answered.
pub(super) struct Remote<'a, W: Worker> {
    link: Link<'a, W>,
    /// Of servers that know no version 2: all its refs.
    refs: Option<Vec<Ref>>,
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("git: {why}")).with_kind(Kind::Unknown)
}

enum Line {
    Flush,
    Delimiter,
    Data(Vec<u8>),
    /// The stream has ended.
    End,
}

async fn line(input: &mut (impl AsyncRead + Unpin)) -> Result<Line, Error> {
    let read = async {
        let mut head = [0; 4];
        match input.read_exact(&mut head).await {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Line::End),
            done => done.map_err(failed)?,
        };
        let length = std::str::from_utf8(&head).ok().and_then(|t| usize::from_str_radix(t, 16).ok());
        match length.ok_or_else(|| failed("what answers speaks no git"))? {
            0 => Ok(Line::Flush),
            1 => Ok(Line::Delimiter),
            2 | 3 => Ok(Line::Flush),
            n => {
                let mut data = vec![0; n - 4];
                input.read_exact(&mut data).await.map_err(failed)?;
                if let Some(words) = data.strip_prefix(b"ERR ") {
                    return Err(failed(String::from_utf8_lossy(words).trim_end()));
                }
                Ok(Line::Data(data))
            }
        }
    };
    tokio::time::timeout(SILENCE, read).await.map_err(|_| failed("the remote does not answer"))?
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend(format!("{:04x}{text}", text.len() + 4).bytes());
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).trim_end_matches('\n').to_owned()
}

/// A path that a shell takes as one word.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Where an ssh remote is: what ssh takes, and the path there.
fn ssh_place(remote: &str) -> Option<(Vec<String>, String)> {
    let Some(rest) = remote.strip_prefix("ssh://") else {
        let (host, path) = remote.split_once(':')?;
        return Some((vec!["--".into(), host.into()], path.into()));
    };
    let (host, path) = rest.split_once('/')?;
    let (place, port) = match host.rsplit_once(':') {
        Some((place, port)) if port.parse::<u16>().is_ok() => (place, Some(port)),
        _ => (host, None),
    };
    let mut args: Vec<String> = port.iter().flat_map(|p| ["-p".to_owned(), (*p).to_owned()]).collect();
    args.extend(["--".to_owned(), place.to_owned()]);
    let path = if path.starts_with('~') { path.to_owned() } else { format!("/{path}") };
    Some((args, path))
}

fn by_ssh(remote: &str, agent: Option<&Path>) -> Result<tokio::process::Child, Error> {
    let (args, path) = ssh_place(remote).ok_or_else(|| failed(format_args!("no remote: {remote}")))?;
    let mut command = tokio::process::Command::new("ssh");
    // As BuildKit where no host key was given: the first that comes is taken.
    let options =
        ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"];
    command.args(options.iter().flat_map(|o| ["-o", o])).args(["-o", "SendEnv=GIT_PROTOCOL"]);
    command.args(args).arg(format!("git-upload-pack {}", quoted(&path)));
    command.env("GIT_PROTOCOL", VERSION).env_remove("SSH_AUTH_SOCK").kill_on_drop(true);
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", agent);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| {
        let words = format!("{remote}: remotes by ssh need the program ssh, which cannot be run here: {e}");
        Error::invalid(words).with_kind(Kind::Unsupported)
    })
}

impl<'a, W: Worker> Remote<'a, W> {
    /// Asks what answers. `headers`: for requests to web servers; `agent`: a socket of an ssh agent.
    pub async fn open(
        worker: &'a W,
        remote: &str,
        headers: Vec<(String, String)>,
        agent: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let lower = remote.to_ascii_lowercase();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            return Self::open_web(worker, remote, headers).await;
        }
        let (input, output, child): (Input, Pin<Box<dyn AsyncWrite + Send>>, _) = if let Some(rest) =
            lower.strip_prefix("git://").map(|_| &remote[6..])
        {
            let (host, path) = rest.split_once('/').ok_or_else(|| failed("a remote without a path"))?;
            let address = if host.contains(':') { host.to_owned() } else { format!("{host}:{PORT}") };
            let connect = tokio::net::TcpStream::connect(&address);
            let io = tokio::time::timeout(SILENCE, connect).await.map_err(failed)?;
            let (input, mut output) = io.map_err(|e| failed(format_args!("{address}: {e}")))?.into_split();
            let mut greeting = Vec::new();
            put(&mut greeting, &format!("git-upload-pack /{path}\0host={host}\0\0{VERSION}\0"));
            output.write_all(&greeting).await.map_err(failed)?;
            (Box::pin(input), Box::pin(output), None)
        } else {
            let mut child = by_ssh(remote, agent.as_deref())?;
            let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(failed("ssh has no streams"));
            };
            (Box::pin(stdout), Box::pin(stdin), Some(child))
        };
        let mut input = BufReader::new(input);
        let mut child = child;
        let refs = match advertisement(&mut input).await {
            Ok(refs) => refs,
            Err(e) => return Err(with_words(e, child.as_mut()).await.context(remote)),
        };
        Ok(Self { link: Link::Stream { input, output, _child: child.map(Box::new) }, refs })
    }

    async fn open_web(
        worker: &'a W,
        remote: &str,
        mut headers: Vec<(String, String)>,
    ) -> Result<Self, Error> {
        const SERVICE: &str = "/info/refs?service=git-upload-pack";
        headers.push(("git-protocol".into(), VERSION.into()));
        let url = format!("{}{SERVICE}", remote.trim_end_matches('/'));
        let answer = worker.web(WebRequest { url, headers: headers.clone(), body: None }).await?;
        match answer.status {
            200 => {}
            401 | 403 => {
                let words = format!(
                    "{remote}: authentication failed or is required: give the secret GIT_AUTH_TOKEN or GIT_AUTH_HEADER"
                );
                return Err(failed(words));
            }
            other => return Err(failed(format_args!("{remote}: the server answered {other}"))),
        }
        // Where the repository has moved to.
        let base = answer.url.split("/info/refs").next().unwrap_or(remote).to_owned();
        let mut body = BufReader::new(answer.body);
        let refs = advertisement(&mut body).await.map_err(|e| e.context(remote))?;
        Ok(Self { link: Link::Web { worker, base, headers }, refs })
    }

    /// Sends a question; its answer comes from what is given.
    async fn ask(&mut self, question: Vec<u8>) -> Result<Pin<Box<dyn AsyncRead + Send + '_>>, Error> {
        match &mut self.link {
            Link::Stream { input, output, .. } => {
                output.write_all(&question).await.map_err(failed)?;
                output.flush().await.map_err(failed)?;
                Ok(Box::pin(input))
            }
            Link::Web { worker, base, headers } => {
                let mut headers = headers.clone();
                for (name, value) in [("content-type", "request"), ("accept", "result")] {
                    headers.push((name.into(), format!("application/x-git-upload-pack-{value}")));
                }
                let url = format!("{base}/git-upload-pack");
                let answer = worker.web(WebRequest { url, headers, body: Some(question) }).await?;
                if answer.status != 200 {
                    return Err(failed(format_args!("{base}: the server answered {}", answer.status)));
                }
                Ok(Box::pin(BufReader::new(answer.body)))
            }
        }
    }

    /// The remote's refs whose names begin with one of these.
    pub async fn refs(&mut self, prefixes: &[&str]) -> Result<Vec<Ref>, Error> {
        if let Some(refs) = &self.refs {
            return Ok(refs.clone());
        }
        let mut question = Vec::new();
        put(&mut question, "command=ls-refs\n");
        put(&mut question, AGENT);
        question.extend(b"0001");
        put(&mut question, "peel\n");
        for prefix in prefixes {
            put(&mut question, &format!("ref-prefix {prefix}\n"));
        }
        question.extend(b"0000");
        let mut answer = self.ask(question).await?;
        let mut refs = Vec::new();
        loop {
            match line(&mut answer).await? {
                Line::Data(data) if refs.len() < REFS => {
                    let text = text(&data);
                    let mut words = text.split(' ');
                    let (Some(id), Some(name)) = (words.next().and_then(Id::parse), words.next()) else {
                        continue;
                    };
                    let peeled = words.find_map(|w| Id::parse(w.strip_prefix("peeled:")?));
                    refs.push(Ref { id, name: name.to_owned(), peeled });
                }
                Line::Flush => return Ok(refs),
                _ => return Err(failed("the list of refs is cut off")),
            }
        }
    }

    /// Writes the objects of a commit, and of none before it, as a pack.
    pub async fn fetch(&mut self, commit: &Id, to: &mut tokio::fs::File) -> Result<(), Error> {
        let mut question = Vec::new();
        let second = self.refs.is_none();
        if second {
            put(&mut question, "command=fetch");
            put(&mut question, AGENT);
            question.extend(b"0001");
            for argument in ["no-progress", "ofs-delta", "deepen 1", &format!("want {commit}"), "done"] {
                put(&mut question, argument);
            }
            question.extend(b"0000");
        } else {
            put(&mut question, &format!("want {commit} ofs-delta side-band-64k no-progress {AGENT}\n"));
            put(&mut question, "deepen 1\n");
            question.extend(b"0000");
            put(&mut question, "done\n");
        }
        let mut answer = self.ask(question).await?;
        // What stands before the pack.
        loop {
            match line(&mut answer).await? {
                Line::Data(data) if second && data.starts_with(b"packfile") => break,
                Line::Data(data) if !second && (data.starts_with(b"NAK") || data.starts_with(b"ACK")) => {
                    break;
                }
                Line::End => return Err(failed("the remote sent no objects")),
                _ => {}
            }
        }
        let mut bytes = 0;
        loop {
            let data = match line(&mut answer).await? {
                Line::Data(data) => data,
                Line::Flush => break,
                _ => return Err(failed("the objects are cut off")),
            };
            match data.split_first() {
                Some((1, piece)) => {
                    bytes += piece.len() as u64;
                    if bytes > PACK {
                        return Err(failed(format_args!("more than {PACK} bytes")));
                    }
                    to.write_all(piece).await.map_err(failed)?;
                }
                Some((2, _)) => {}
                Some((3, words)) => return Err(failed(String::from_utf8_lossy(words).trim_end())),
                _ => return Err(failed("what answers speaks no git")),
            }
        }
        to.flush().await.map_err(failed)
    }
}

/// The remote's greeting: `None` where it speaks version 2, else its refs.
async fn advertisement(input: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<Ref>>, Error> {
    let mut refs: Vec<Ref> = Vec::new();
    let mut first = true;
    loop {
        let data = match line(input).await? {
            Line::Data(data) => data,
            Line::Flush if first => continue,
            Line::Flush => return Ok(Some(refs)),
            _ => return Err(failed("the remote ended before it said what it has")),
        };
        if first && data.starts_with(b"# service=") {
            continue;
        }
        if first && text(&data) == "version 2" {
            while let Line::Data(_) = line(input).await? {}
            return Ok(None);
        }
        // Of old servers: what they can do stands behind the first ref.
        first = false;
        let plain = text(data.split(|b| *b == 0).next().unwrap_or_default());
        let Some((id, name)) = plain.split_once(' ') else { continue };
        let Some(id) = Id::parse(id) else { continue };
        match name.strip_suffix("^{}") {
            Some(of) => {
                if let Some(tag) = refs.iter_mut().find(|r| r.name == of) {
                    tag.peeled = Some(id);
                }
            }
            None if refs.len() < REFS => refs.push(Ref { id, name: name.to_owned(), peeled: None }),
            None => return Err(failed("too many refs")),
        }
    }
}

/// The error, with what the program that was run said of it.
async fn with_words(error: Error, child: Option<&mut tokio::process::Child>) -> Error {
    let Some(stderr) = child.and_then(|c| c.stderr.take()) else { return error };
    let mut words = Vec::new();
    let mut stderr = stderr.take(4096);
    let _ = tokio::time::timeout(Duration::from_secs(2), stderr.read_to_end(&mut words)).await;
    let words = text(&words);
    if words.is_empty() { error } else { failed(words.trim_end()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_ssh_are_read() {
        let place = |text| ssh_place(text).map(|(args, path)| (args.join(" "), path)).unwrap();
        assert_eq!(place("git@host:a/b.git"), ("-- git@host".into(), "a/b.git".into()));
        assert_eq!(place("ssh://git@host:22/a"), ("-p 22 -- git@host".into(), "/a".into()));
        // It is no option of ssh's.
        assert_eq!(place("ssh://-oProxyCommand=x/a"), ("-- -oProxyCommand=x".into(), "/a".into()));
        assert_eq!(quoted("a'b"), r"'a'\''b'");
    }

    #[tokio::test]
    async fn greetings_of_both_versions_are_read() {
        let id = "1".repeat(40);
        let mut second = Vec::new();
        put(&mut second, "# service=git-upload-pack\n");
        second.extend(b"0000");
        put(&mut second, "version 2\n");
        put(&mut second, "fetch=shallow\n");
        second.extend(b"0000");
        assert_eq!(advertisement(&mut second.as_slice()).await.unwrap(), None);
        let mut old = Vec::new();
        put(&mut old, &format!("{id} HEAD\0ofs-delta shallow\n"));
        put(&mut old, &format!("{id} refs/tags/v1\n"));
        put(&mut old, &format!("{} refs/tags/v1^{{}}\n", "2".repeat(40)));
        old.extend(b"0000");
        let refs = advertisement(&mut old.as_slice()).await.unwrap().unwrap();
        assert_eq!((refs[0].name.as_str(), refs[1].peeled), ("HEAD", Id::parse(&"2".repeat(40))));
        for wrong in ["", "<html>", "0008ERR nothing", "ffff"] {
            assert!(advertisement(&mut wrong.as_bytes()).await.is_err(), "{wrong}");
        }
    }
}
