//! Operations of the tag Exec.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::containers::{MULTIPLEXED, RAW, detach_keys, pump, running, size};
use super::hijack::Hijacked;
use super::reply::Reply;
use super::request::Call;
use crate::container::{Record, Status, spec};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::exec::{Exec, ExecConfig, ExecState};

/// How long after its output a process may take to end before the client is told that the output has.
const EXIT_AFTER_OUTPUT: Duration = Duration::from_secs(3);

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.param(0).to_owned();
    let handle = engine.containers.find(&name)?;
    let config: ExecConfig = call.json_or_default().await?;
    if config.cmd.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    if let Err(e) = running(&handle).map(drop) {
        // dockerd names it as it was asked for, unless it is being restarted.
        if matches!(handle.view().status, Status::Restarting) {
            return Err(e);
        }
        let id = format!("Container {}", handle.view().record.id);
        return Err(Error { message: e.message.replace(&id, &format!("Container {name}")), ..e });
    }
    detach_keys(&config.detach_keys)
        .map_err(|_| Error::internal(format!("Invalid escape keys ({}) provided", config.detach_keys)))?;
    let (record, container) = running(&handle)?;
    // A user that is not there is refused now: at the start the client has no ears for an error any more.
    spec::exec_process(&engine, &record, &container, &config).await?;
    let action = told_command("exec_create", &config);
    let exec = engine.execs.create(&record.id, config);
    engine.container_event(&record, &action, &[("execID", exec.id.clone())]);
    Ok(Reply::created(json!({ "Id": exec.id })))
}

/// An event's action, as dockerd words it: a program without arguments leaves a space behind.
fn told_command(action: &str, config: &ExecConfig) -> String {
    let (program, arguments) = config.cmd.split_first().map_or(("", &[][..]), |(p, rest)| (p.as_str(), rest));
    format!("{action}: {program} {}", arguments.join(" "))
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: bool,
    tty: bool,
    console_size: Option<(u16, u16)>,
}

pub async fn start(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let exec = engine.execs.find(call.param(0))?;
    let body: StartBody = call.json_or_default().await?;
    let (record, container) = running(&engine.containers.find(&exec.container)?)?;
    match exec.state() {
        ExecState::Created => {}
        ExecState::Running(_) => {
            return Err(Error::conflict(format!("exec command {} is already running", exec.id)));
        }
        ExecState::Exited { .. } => {
            return Err(Error::conflict(format!("exec command {} has already run", exec.id)));
        }
    }
    let config = &exec.config;
    let tty = config.tty || body.tty;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        // runc's words and code.
        exec.set(ExecState::Exited { code: 128, pid: 0, at: Instant::now() });
        let e = Error::invalid("OCI runtime exec failed: exec failed: Cwd must be an absolute path");
        return refused(e, body.detach, tty);
    }
    let process = spec::exec_process(&engine, &record, &container, config).await?;
    let wants_output = !body.detach;
    let started = container
        .exec(runtime::ExecSpec {
            process,
            tty,
            stdin: config.attach_stdin && wants_output,
            stdout: config.attach_stdout && wants_output,
            stderr: config.attach_stderr && wants_output,
            console_size: body.console_size.or(config.console_size).filter(|(h, w)| *h > 0 && *w > 0),
        })
        .await;
    let started = match started {
        Ok(started) => Arc::new(started),
        Err(e) => return refused(not_started(&exec, e), body.detach, tty),
    };
    let keys = if tty { detach_keys(&config.detach_keys)? } else { None };
    let attachment = if body.detach {
        None
    } else {
        let want = runtime::AttachWant {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
            detach_keys: keys.clone(),
        };
        Some(started.attach(want).await.map_err(failed)?)
    };
    let Some(attachment) = attachment else {
        exec.set(ExecState::Running(started.clone()));
        begin(&engine, &exec, &record, started).await?;
        return Ok(Reply::Empty(StatusCode::OK));
    };
    exec.set(ExecState::Running(started.clone()));
    Ok(Reply::Hijack(
        if tty { RAW } else { MULTIPLEXED },
        // Started only after the head is sent: docker-py loses output that comes together with it.
        Box::new(move |io| {
            Box::pin(async move {
                match begin(&engine, &exec, &record, started).await {
                    Ok(()) => {
                        if pump(io, attachment, keys, told(&exec)).await {
                            engine.container_event(&record, "exec_detach", &[("execID", exec.id.clone())]);
                        }
                    }
                    Err(e) => say(io, &e, tty).await,
                }
            })
        }),
    ))
}

/// Tells why it did not start: a client that looks at the output has no eyes for a status.
fn refused(e: Error, detach: bool, tty: bool) -> Result<Reply> {
    if detach {
        return Err(e);
    }
    let kind = if tty { RAW } else { MULTIPLEXED };
    Ok(Reply::Hijack(kind, Box::new(move |io| Box::pin(async move { say(io, &e, tty).await }))))
}

/// Lets the process go, and notes its end when it comes.
async fn begin(
    engine: &Arc<Engine>,
    exec: &Arc<Exec>,
    record: &Arc<Record>,
    started: Arc<runtime::Exec>,
) -> Result<()> {
    if let Err(e) = started.start().await {
        return Err(not_started(exec, e));
    }
    let action = told_command("exec_start", &exec.config);
    engine.container_event(record, &action, &[("execID", exec.id.clone())]);
    watch(engine, exec, record.clone(), started);
    Ok(())
}

/// The exec has ended, or goes on without its output: the client asks for the exit code as soon as the output ends,
/// and it must be there by then.
async fn told(exec: &Exec) {
    if tokio::time::timeout(EXIT_AFTER_OUTPUT, exec.ended()).await.is_err() {
        tracing::debug!("exec {} goes on without its output", exec.id);
    }
}

/// Notes that it did not start; the failure in Docker's words.
fn not_started(exec: &Exec, e: runtime::Error) -> Error {
    let code = match e.code() {
        runtime::Code::NotFound => 127,
        // dockerd goes by the words, too: a working directory that is not there.
        _ if e.to_string().ends_with("no such file or directory") => 127,
        _ => 126,
    };
    exec.set(ExecState::Exited { code, pid: 0, at: Instant::now() });
    failed(e)
}

/// Tells a failure on the stream, as dockerd does; the exit code is in the exec's record.
async fn say(mut io: Hijacked, e: &Error, tty: bool) {
    let mut words = format!("{e}\r\n").into_bytes();
    if !tty {
        let length = (words.len() as u32).to_be_bytes();
        words.splice(0..0, [1, 0, 0, 0, length[0], length[1], length[2], length[3]]);
    }
    // The client may have gone away.
    let _ = io.write_all(&words).await;
    let _ = io.shutdown().await;
}

/// Notes the exec's end when it comes.
fn watch(engine: &Arc<Engine>, exec: &Arc<Exec>, record: Arc<Record>, started: Arc<runtime::Exec>) {
    let (owner, exec) = (engine.clone(), exec.clone());
    engine.tasks.spawn(async move {
        let code = match started.wait().await {
            Ok(exit) => i32::from(exit.code),
            Err(e) => {
                tracing::warn!("exec {}: {e}", exec.id);
                255
            }
        };
        exec.set(ExecState::Exited { code, pid: started.pid(), at: Instant::now() });
        let more = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
        owner.container_event(&record, "exec_die", &more);
    });
}

/// The words the CLI looks for when it chooses between 126 and 127.
fn failed(e: runtime::Error) -> Error {
    let message = format!("OCI runtime exec failed: exec failed: unable to start container process: {e}");
    let code = match e.code() {
        runtime::Code::NotRunning => Code::Conflict,
        runtime::Code::NotFound | runtime::Code::NotExecutable | runtime::Code::InvalidArgument => {
            Code::InvalidArgument
        }
        _ => Code::Internal,
    };
    Error { code, message }
}

pub async fn resize(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let (rows, columns) = size(&call)?;
    let exec = engine.execs.find(call.param(0))?;
    match exec.state() {
        ExecState::Running(running) => {
            running.resize(rows, columns).await.map_err(|e| Error::internal(e.to_string()))?;
            Ok(Reply::Empty(StatusCode::OK))
        }
        _ => Err(Error::not_found(format!("NotFound: process does not exist {}: not found", exec.id))),
    }
}

pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let exec = engine.execs.find(call.param(0))?;
    let (running, code, pid) = match exec.state() {
        ExecState::Created => (false, Value::Null, 0),
        ExecState::Running(process) => (true, Value::Null, process.pid()),
        ExecState::Exited { code, pid, .. } => (false, json!(code), pid),
    };
    let config = &exec.config;
    // Go shows bytes as base64.
    let keys = match config.detach_keys.as_str() {
        "" => String::new(),
        keys => BASE64_STANDARD.encode(detach_keys(keys)?.unwrap_or_default()),
    };
    let (entrypoint, arguments) = match config.cmd.split_first() {
        Some((first, rest)) => (first.clone(), rest.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let mut process = json!({ "arguments": arguments, "entrypoint": entrypoint, "privileged": config.privileged, "tty": config.tty });
    if !config.user.is_empty() {
        process["user"] = json!(config.user);
    }
    Ok(Reply::json(json!({
        "ID": exec.id, "Running": running, "ExitCode": code, "ProcessConfig": process,
        "OpenStdin": config.attach_stdin, "OpenStderr": config.attach_stderr, "OpenStdout": config.attach_stdout,
        "CanRemove": false, "ContainerID": exec.container, "DetachKeys": keys, "Pid": pid,
    })))
}
