// Made from crates/app/src/words.rs by its test; `CORACLE_WRITE_TYPES=1 cargo test -p app words` writes it.

export type Control = { "control": "start" } | { "control": "stop" } | { "control": "settings" } | { "control": "set", 
/**
 * As `coracle settings` names it.
 */
key: string, 
/**
 * In the words of `coracle settings set`.
 */
value: string, } | { "control": "log", 
/**
 * The guest's console.
 */
guest: boolean, 
/**
 * So many lines.
 */
lines: number, } | { "control": "tools" } | { "control": "look", 
/**
 * Its whole path.
 */
path: string, } | { "control": "registries" } | { "control": "sign_in", 
/**
 * The registry's host, with its port; empty for Docker Hub.
 */
registry: string, 
/**
 * User.
 */
user: string, 
/**
 * Password or token.
 */
secret: string, } | { "control": "sign_out", 
/**
 * As [`Registry::host`] names it.
 */
registry: string, } | { "control": "engine_settings" } | { "control": "set_engine_settings", 
/**
 * A JSON object; empty for none.
 */
text: string, } | { "control": "certificates" } | { "control": "trust", 
/**
 * Its file, in PEM: a whole path.
 */
path: string, } | { "control": "distrust", 
/**
 * As [`ControlAnswer::Certificates`] names it.
 */
name: string, } | { "control": "context" } | { "control": "use_context", 
/**
 * Here.
 */
wanted: boolean, } | { "control": "diagnostics", 
/**
 * Where to: a whole path.
 */
path: string, } | { "control": "engines" } | { "control": "reset" };
export type ControlAnswer = { "answer": "machine", 
/**
 * It.
 */
machine: Machine, } | { "answer": "settings", 
/**
 * Values in the words of `coracle settings`.
 */
settings: { [key in string]: string }, } | { "answer": "text", 
/**
 * It.
 */
text: string, } | { "answer": "tools", 
/**
 * Compose's, where it is there.
 */
compose: string | null, 
/**
 * Buildx's, where it is there.
 */
build: string | null, 
/**
 * Where credentials are kept from now on: a program's name, or nothing for docker's own file.
 */
store: string | null, } | { "answer": "folder", 
/**
 * Its whole path, without what leads astray.
 */
path: string, 
/**
 * Files that compose would take, the first one first.
 */
compose: Array<string>, 
/**
 * Files that look like Dockerfiles, the first one first.
 */
dockerfiles: Array<string>, } | { "answer": "registries", 
/**
 * Each with credentials.
 */
registries: Array<Registry>, } | { "answer": "certificates", 
/**
 * Their files' names.
 */
names: Array<string>, } | { "answer": "context", 
/**
 * Whether it is this home's; none: docker has no context that leads here.
 */
used: boolean | null, } | { "answer": "engines", 
/**
 * Each that answers.
 */
engines: Array<Engine>, };
export type Registry = { 
/**
 * Its name in docker's configuration.
 */
host: string, 
/**
 * The user, where it is told.
 */
user: string | null, 
/**
 * The program that keeps the secret; none: docker's own file does.
 */
store: string | null, };
export type Engine = { 
/**
 * What it calls itself, after the name of docker's context that leads to it.
 */
name: string, 
/**
 * Its socket.
 */
socket: string, 
/**
 * Its images, under each of their names.
 */
images: Array<EngineImage>, 
/**
 * Its volumes of the driver `local`.
 */
volumes: Array<string>, };
export type EngineImage = { 
/**
 * A tag, or its id where it has none.
 */
name: string, 
/**
 * Bytes, as its engine counts them.
 */
size: number, };
export type Failure = { 
/**
 * For programs.
 */
code: string, 
/**
 * The engine's status, where it was the engine that refused.
 */
status: number | null, 
/**
 * For people.
 */
message: string, };
export type Machine = { 
/**
 * What it is doing.
 */
state: State, 
/**
 * Stopped because nothing ran in it; the next use of Docker's socket starts it.
 */
asleep: boolean, 
/**
 * `qemu` or `local`.
 */
driver: string | null, 
/**
 * `kvm`, `tcg` or none.
 */
accel: string | null, 
/**
 * Why this accelerator, where another was wished for.
 */
accel_note: string | null, 
/**
 * Docker's socket.
 */
socket: string, 
/**
 * The daemon's release and build.
 */
daemon: string | null, 
/**
 * The guest's release and build.
 */
guest: string | null, 
/**
 * This program's release and build.
 */
app: string, 
/**
 * True when the daemon that runs is of another build than this program.
 */
other_build: boolean, 
/**
 * What is wrong, if anything is.
 */
error: Failure | null, };
export type State = "stopped" | "starting" | "running" | "stopping" | "failed";
export type Open = { "open": "machine" } | { "open": "lines", 
/**
 * HTTP's method.
 */
method: string, 
/**
 * The engine's path, with its query.
 */
path: string, 
/**
 * The registry whose credentials go along, where there are any: for pulls and pushes.
 */
registry: string | null, } | { "open": "logs", 
/**
 * Of these.
 */
containers: Array<LogOf>, 
/**
 * What they wrote there alone; else to both.
 */
only: Output | null, } | { "open": "usage" } | { "open": "tree", 
/**
 * The container's id.
 */
container: string, 
/**
 * The folder that is the root of what is shown.
 */
path: string, } | { "open": "send", 
/**
 * HTTP's method.
 */
method: string, 
/**
 * The engine's path, with its query.
 */
path: string, 
/**
 * The file: a whole path.
 */
file: string, 
/**
 * Packed into an archive of this one file first, as uploads into containers want it.
 */
pack: boolean, } | { "open": "receive", 
/**
 * The engine's path, with its query.
 */
path: string, 
/**
 * The file: a whole path. What was there stays until all has come.
 */
file: string, } | { "open": "copy", 
/**
 * What is read, with its query.
 */
from: string, 
/**
 * Where it is put (`PUT`), with its query.
 */
to: string, } | { "open": "import", 
/**
 * The other's socket, of [`Control::Engines`].
 */
socket: string, 
/**
 * Names of images.
 */
images: Array<string>, 
/**
 * Names of volumes.
 */
volumes: Array<string>, } | { "open": "tool", 
/**
 * Which, and what it shall do.
 */
tool: Tool, } | { "open": "terminal", 
/**
 * The engine's path, with its query.
 */
path: string, 
/**
 * The request's body, JSON.
 */
body: string | null, };
export type Output = "stdout" | "stderr";
export type LogOf = { 
/**
 * The container's id or name.
 */
id: string, 
/**
 * Whether it has a terminal: its log then is one stream.
 */
tty: boolean, };
export type Tool = { "tool": "compose", 
/**
 * The project's name; without one, compose takes the folder's.
 */
project: string | null, 
/**
 * The project's folder.
 */
folder: string | null, 
/**
 * Its files, where they have no usual name.
 */
files: Array<string>, 
/**
 * What to do.
 */
verb: ComposeVerb, 
/**
 * With these services only; none: with all.
 */
services: Array<string>, } | { "tool": "build", 
/**
 * The folder that is sent.
 */
folder: string, 
/**
 * The Dockerfile, from the folder on; empty for the usual one.
 */
file: string, 
/**
 * Names of the image.
 */
tags: Array<string>, 
/**
 * Arguments, `NAME=value`.
 */
args: Array<string>, 
/**
 * The stage to build; empty for the last one.
 */
target: string, 
/**
 * The platform; empty for the engine's own.
 */
platform: string, 
/**
 * Leave the cache aside.
 */
no_cache: boolean, 
/**
 * Ask registries for newer images to build upon.
 */
pull: boolean, } | { "tool": "builds" } | { "tool": "build_record", 
/**
 * Its reference.
 */
id: string, } | { "tool": "build_log", 
/**
 * Its reference.
 */
id: string, } | { "tool": "build_forget", 
/**
 * Its reference.
 */
id: string, };
export type ComposeVerb = { "verb": "up", 
/**
 * Build images first.
 */
build: boolean, } | { "verb": "down", 
/**
 * And its volumes.
 */
volumes: boolean, } | { "verb": "start" } | { "verb": "stop" } | { "verb": "restart" } | { "verb": "pull" } | { "verb": "build" } | { "verb": "config" } | { "verb": "scale", 
/**
 * So many.
 */
count: number, };
export type Use = { 
/**
 * Percent of one processor.
 */
cpu: number, 
/**
 * Bytes, without what is only cached.
 */
memory: number, 
/**
 * Bytes it may use.
 */
limit: number, 
/**
 * Bytes received, in all.
 */
received: number, 
/**
 * Bytes sent, in all.
 */
sent: number, 
/**
 * Bytes read from disks, in all.
 */
read: number, 
/**
 * Bytes written to disks, in all.
 */
written: number, 
/**
 * Processes.
 */
processes: number, };
export type EntryKind = "folder" | "file" | "link" | "other";
export type Entry = { 
/**
 * Its name.
 */
name: string, 
/**
 * What it is.
 */
kind: EntryKind, 
/**
 * Bytes.
 */
size: number, 
/**
 * As `ls` shows it: `drwxr-xr-x`.
 */
mode: string, 
/**
 * Where a link leads.
 */
target: string | null, };
export type Message = { "message": "machine", 
/**
 * How it is now.
 */
machine: Machine, } | { "message": "opened" } | { "message": "lines", 
/**
 * As they came.
 */
lines: Array<string>, } | { "message": "log_size", 
/**
 * Number of the first line that is still kept.
 */
first: number, 
/**
 * Number after the last line.
 */
end: number, 
/**
 * True when no more come (the container ended).
 */
ended: boolean, } | { "message": "log_lines", 
/**
 * The question's.
 */
id: number, 
/**
 * The lines; fewer than asked for at the end.
 */
lines: Array<LogLine>, } | { "message": "log_found", 
/**
 * The question's.
 */
id: number, 
/**
 * How many lines match.
 */
total: number, 
/**
 * Their numbers, the last ones where there are too many.
 */
lines: Array<number>, 
/**
 * Why nothing was searched: the expression is wrong.
 */
error: string | null, } | { "message": "usage", 
/**
 * Milliseconds since 1970.
 */
at: number, 
/**
 * Each running container.
 */
containers: { [key in string]: Use }, } | { "message": "folder", 
/**
 * The question's.
 */
id: number, 
/**
 * What is in it; nothing where there is no such folder.
 */
entries: Array<Entry> | null, } | { "message": "moved", 
/**
 * So many.
 */
bytes: number, 
/**
 * Of so many, where it is known.
 */
of: number | null, } | { "message": "failed", 
/**
 * Why.
 */
failure: Failure, } | { "message": "ended" };
export type LogLine = { 
/**
 * Its number.
 */
number: number, 
/**
 * When it was written (RFC 3339), as the engine says.
 */
time: string, 
/**
 * Whether it was written to standard error.
 */
stderr: boolean, 
/**
 * Its text, without control sequences.
 */
text: string, 
/**
 * Which of the containers that were asked for.
 */
source: number, };
export type Input = { "input": "look" } | { "input": "log_lines", 
/**
 * Comes back with the answer.
 */
id: number, 
/**
 * First number.
 */
from: number, 
/**
 * So many.
 */
count: number, } | { "input": "log_search", 
/**
 * Comes back with the answer.
 */
id: number, 
/**
 * What is searched for.
 */
text: string, 
/**
 * It is a regular expression.
 */
regex: boolean, 
/**
 * Upper and lower case differ.
 */
case: boolean, } | { "input": "folder", 
/**
 * Comes back with the answer.
 */
id: number, 
/**
 * Its path, from the tree's root on.
 */
path: string, };
