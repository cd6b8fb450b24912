// Made from crates/app/src/words.rs by its test; `CORACLE_WRITE_TYPES=1 cargo test -p app words` writes it.

export type Control = { "control": "machine" } | { "control": "start" } | { "control": "stop" } | { "control": "settings" } | { "control": "set", 
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
lines: number, };
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
text: string, };
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
path: string, } | { "open": "logs", 
/**
 * Its id or name.
 */
container: string, 
/**
 * Whether it has a terminal: its log then is one stream.
 */
tty: boolean, } | { "open": "terminal", 
/**
 * The engine's path, with its query.
 */
path: string, 
/**
 * The request's body, JSON.
 */
body: string | null, };
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
error: string | null, } | { "message": "failed", 
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
text: string, };
export type Input = { "input": "log_lines", 
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
case: boolean, };
