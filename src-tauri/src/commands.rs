//! What the page may ask of the shell: the crate `app`'s calls, a file to save, a page to open.

use std::{collections::HashMap, sync::Mutex};

use app::{
    App, AppError, Stream,
    streams::{In, Out},
    words::{Control, ControlAnswer, Failure, Input, Message, Open},
};
use base64::Engine as _;
use http_body_util::BodyExt;
use serde::Serialize;
use tauri::{
    AppHandle, Manager, State,
    ipc::{Channel, InvokeBody, Request, Response},
};
use tauri_plugin_dialog::DialogExt;
use tauri_plugin_opener::OpenerExt;
use tokio::sync::mpsc;

/// Longest answer that goes to the page as a whole.
const LONGEST: usize = 256 << 20;

type Done<T> = Result<T, Failure>;

fn wrong(message: impl Into<String>) -> Failure {
    AppError::Request(message.into()).failure()
}

/// A header of the call, percent-decoded: the page sends what headers can't hold in that way.
fn header(request: &Request<'_>, name: &str) -> Option<String> {
    let value = request.headers().get(name)?.to_str().ok()?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(b);
        }
    }
    String::from_utf8(bytes).ok()
}

/// One request to the engine. Answers its status in two bytes, then its body.
#[tauri::command]
pub async fn docker(app: State<'_, App>, request: Request<'_>) -> Done<Response> {
    let InvokeBody::Raw(body) = request.body() else { return Err(wrong("the body is not bytes")) };
    let method = header(&request, "x-method").unwrap_or_default();
    let path = header(&request, "x-path").unwrap_or_default();
    let kind = header(&request, "x-type").unwrap_or_default();
    let mut built = hyper::Request::builder().method(method.as_str()).uri(path.as_str());
    if !body.is_empty() {
        built = built.header("content-type", kind);
    }
    let body = if body.is_empty() { app::empty() } else { app::body_of(body.clone()) };
    let built = built.body(body).map_err(|e| wrong(format!("{method} {path}: {e}")))?;
    let answer = app.docker(built).await.map_err(|e| e.failure())?;
    if crate::tells_times() {
        eprintln!("{method} {path}: answered {} ms after the start", crate::since_start().as_millis());
    }
    let status = answer.status().as_u16();
    let body = http_body_util::Limited::new(answer.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|e| wrong(format!("the answer was not read to its end: {e}")))?
        .to_bytes();
    let mut out = Vec::with_capacity(body.len() + 2);
    out.extend_from_slice(&status.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(Response::new(out))
}

/// The machine itself.
#[tauri::command]
pub async fn control(app: State<'_, App>, request: Control) -> Done<ControlAnswer> {
    app.control(request).await.map_err(|e| e.failure())
}

/// What the page hears of a stream.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum Heard {
    /// A message.
    Message(Box<Message>),
    /// Bytes of a terminal.
    Bytes {
        /// In base64.
        bytes: String,
    },
}

/// Open streams, by the page's own numbers.
#[derive(Default)]
pub struct Streams(Mutex<HashMap<u32, Running>>);

/// A stream's input, and the task that passes on what comes from it.
type Running = (mpsc::Sender<In>, tauri::async_runtime::JoinHandle<()>);

impl Streams {
    fn sender(&self, id: u32) -> Option<mpsc::Sender<In>> {
        let streams = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        streams.get(&id).map(|(to, _)| to.clone())
    }

    fn remove(&self, id: u32) {
        let mut streams = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, task)) = streams.remove(&id) {
            task.abort();
        }
    }
}

/// Where the page is to go, if anywhere; told once.
#[tauri::command]
pub fn place(app: AppHandle) -> Option<String> {
    crate::Place::of(&app).take()
}

/// Opens a stream.
#[tauri::command]
pub async fn open(
    handle: AppHandle,
    app: State<'_, App>,
    streams: State<'_, Streams>,
    id: u32,
    what: Open,
    channel: Channel<Heard>,
) -> Done<()> {
    let Stream { mut from, to, guard } = app.open(what);
    let task = tauri::async_runtime::spawn(async move {
        let _guard = guard;
        while let Some(out) = from.recv().await {
            let heard = match out {
                Out::Message(message) => Heard::Message(Box::new(message)),
                Out::Bytes(bytes) => {
                    Heard::Bytes { bytes: base64::engine::general_purpose::STANDARD.encode(&bytes) }
                }
            };
            if channel.send(heard).is_err() {
                break;
            }
        }
        handle.state::<Streams>().remove(id);
    });
    let mut all = streams.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.insert(id, (to, task));
    Ok(())
}

/// Says something to a stream.
#[tauri::command]
pub async fn say(streams: State<'_, Streams>, id: u32, input: Input) -> Done<()> {
    if let Some(to) = streams.sender(id) {
        let _ = to.send(In::Input(input)).await;
    }
    Ok(())
}

/// Bytes for a terminal.
#[tauri::command]
pub async fn type_in(streams: State<'_, Streams>, id: u32, bytes: Vec<u8>) -> Done<()> {
    if let Some(to) = streams.sender(id) {
        let _ = to.send(In::Bytes(bytes.into())).await;
    }
    Ok(())
}

/// Ends a stream.
#[tauri::command]
pub async fn close(streams: State<'_, Streams>, id: u32) -> Done<()> {
    streams.remove(id);
    Ok(())
}

/// Opens a page in the person's browser: pages alone, nothing that another program would run.
#[tauri::command]
pub async fn open_url(app: AppHandle, url: String) -> Done<()> {
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(wrong(format!("{url} is no page")));
    }
    app.opener().open_url(&url, None::<&str>).map_err(|e| wrong(format!("no browser opened {url}: {e}")))
}

/// Asks where a file is to be kept, and keeps it.
#[tauri::command]
pub async fn save(app: AppHandle, request: Request<'_>) -> Done<()> {
    let InvokeBody::Raw(bytes) = request.body() else { return Err(wrong("the file is not bytes")) };
    let name = header(&request, "x-name").unwrap_or_default().replace(['/', '\\', '\0'], "_");
    let (told, chosen) = tokio::sync::oneshot::channel();
    app.dialog().file().set_file_name(name).save_file(move |path| drop(told.send(path)));
    let Some(path) = chosen.await.ok().flatten() else { return Ok(()) };
    let path = path.into_path().map_err(|e| wrong(e.to_string()))?;
    tokio::fs::write(&path, bytes).await.map_err(|e| wrong(format!("{}: {e}", path.display())))
}

/// What is asked for by [`pick`].
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picked {
    /// A folder.
    Folder,
    /// A file that is there.
    Open,
    /// A file to be written.
    Save,
}

/// Asks for a file or folder by the system's own dialog; nothing when the person changed their mind.
#[tauri::command]
pub async fn pick(app: AppHandle, kind: Picked, name: Option<String>) -> Done<Option<String>> {
    let (told, chosen) = tokio::sync::oneshot::channel();
    let mut dialog = app.dialog().file();
    if let Some(name) = name {
        dialog = dialog.set_file_name(name.replace(['/', '\\', '\0'], "_"));
    }
    let tell = move |path| drop(told.send(path));
    match kind {
        Picked::Folder => dialog.pick_folder(tell),
        Picked::Open => dialog.pick_file(tell),
        Picked::Save => dialog.save_file(tell),
    }
    let Some(path) = chosen.await.ok().flatten() else { return Ok(None) };
    let path = path.into_path().map_err(|e| wrong(e.to_string()))?;
    Ok(Some(path.display().to_string()))
}

/// Shows a folder in the system's file manager: folders alone, nothing that would be run.
#[tauri::command]
pub async fn open_folder(app: AppHandle, path: String) -> Done<()> {
    if !std::path::Path::new(&path).is_dir() {
        return Err(wrong(format!("{path} is no folder of this computer")));
    }
    app.opener().open_path(&path, None::<&str>).map_err(|e| wrong(format!("nothing opened {path}: {e}")))
}

/// Whether the app starts at login; sets it where `wanted` is given.
#[tauri::command]
pub async fn autostart(app: AppHandle, wanted: Option<bool>) -> Done<bool> {
    use tauri_plugin_autostart::ManagerExt;
    if wanted == Some(true) {
        let program = std::env::current_exe().map_err(|e| wrong(e.to_string()))?;
        app::stays(&program).map_err(wrong)?;
    }
    let manager = app.autolaunch();
    let told = match wanted {
        Some(true) => manager.enable(),
        Some(false) => manager.disable(),
        None => Ok(()),
    };
    told.and_then(|()| manager.is_enabled()).map_err(|e| wrong(format!("start at login: {e}")))
}
