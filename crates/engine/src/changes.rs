//! The Dockerfile instructions that `docker commit --change` and `docker import --change` take: those that only
//! touch an image's configuration.
//!
//! Syntax as in the Dockerfile reference: words in quotes, `\` before a character, `$NAME` and `${NAME}` from the
//! configuration's own environment; a list in JSON, or else a line for the shell.

use crate::container::config::{Config, Empty, Healthcheck};
use crate::container::signal::parse_signal;
use crate::error::{Error, Result};
use crate::time;

/// The shell of lines that are no JSON list.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Applies instructions in their order.
///
/// # Errors
/// Docker's words for what is not an instruction, or not one of these.
pub fn apply(config: &mut Config, lines: &[String]) -> Result<()> {
    for line in lines.iter().flat_map(|text| text.lines()) {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            one(config, line)?;
        }
    }
    Ok(())
}

fn one(config: &mut Config, line: &str) -> Result<()> {
    let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (instruction, rest) = (instruction.to_ascii_uppercase(), rest.trim());
    let known = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !known.contains(&instruction.as_str()) {
        return Err(Error::invalid(format!("{instruction} is not a valid change command")));
    }
    if rest.is_empty() && !matches!(instruction.as_str(), "CMD" | "ENTRYPOINT") {
        let count = match instruction.as_str() {
            "ENV" | "LABEL" | "EXPOSE" | "VOLUME" | "ONBUILD" | "HEALTHCHECK" => "at least one argument",
            _ => "exactly one argument",
        };
        return Err(Error::invalid(format!("{instruction} requires {count}")));
    }
    match instruction.as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => config.entrypoint = command(rest),
        "ENV" => {
            for (name, value) in pairs(&instruction, rest, &config.env)? {
                config.env.retain(|e| e.split('=').next() != Some(&name));
                config.env.push(format!("{name}={value}"));
            }
        }
        "LABEL" => {
            for (name, value) in pairs(&instruction, rest, &config.env)? {
                config.labels.insert(name, value);
            }
        }
        "EXPOSE" => {
            for word in words(rest, &config.env)? {
                for port in exposed(&word)? {
                    config.exposed_ports.insert(port, Empty {});
                }
            }
        }
        "VOLUME" => {
            let paths = match list(rest) {
                Some(list) => list,
                None => words(rest, &config.env)?,
            };
            for path in paths {
                if path.trim().is_empty() {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.insert(path, Empty {});
            }
        }
        "USER" => config.user = single(&instruction, rest, &config.env)?,
        "WORKDIR" => {
            let path = single(&instruction, rest, &config.env)?;
            // Relative to the one before, as `cd` would.
            config.working_dir = match (path.starts_with('/'), config.working_dir.as_str()) {
                (true, _) => path,
                (false, "") => format!("/{path}"),
                (false, before) => format!("{}/{path}", before.trim_end_matches('/')),
            };
        }
        "STOPSIGNAL" => {
            let signal = single(&instruction, rest, &config.env)?;
            if parse_signal(&signal).is_none() {
                return Err(Error::invalid(format!("Invalid signal: {signal}")));
            }
            config.stop_signal = signal;
        }
        "ONBUILD" => config.on_build.get_or_insert_default().push(rest.to_owned()),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        _ => return Err(Error::invalid(format!("{instruction} is not a valid change command"))),
    }
    Ok(())
}

/// A JSON list of strings.
fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn command(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return None;
    }
    Some(list(text).unwrap_or_else(|| SHELL.into_iter().chain([text]).map(str::to_owned).collect()))
}

fn single(instruction: &str, text: &str, env: &[String]) -> Result<String> {
    match words(text, env)?.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(Error::invalid(format!("{instruction} requires exactly one argument"))),
    }
}

/// `name=value ...`, or the old form `name the rest of the line`.
fn pairs(instruction: &str, text: &str, env: &[String]) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(name.to_owned(), expand(value.trim(), env).trim_matches('"').to_owned())]);
    }
    words(text, env)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Error::invalid(format!("{instruction} names can not be blank"))),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Error::invalid(format!(
                "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            ))),
        })
        .collect()
}

/// Splits at white space; quotes and `\` keep it together; variables are filled in outside of single quotes.
fn words(text: &str, env: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                if let Some(next) = chars.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            ('$', None | Some('"')) => {
                let mut name = String::new();
                let braced = chars.next_if_eq(&'{').is_some();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                if braced && chars.next_if_eq(&'}').is_none() {
                    return Err(Error::invalid(format!(
                        "failed to process \"{text}\": unsupported modifier in substitution"
                    )));
                }
                let value = word.get_or_insert_default();
                if name.is_empty() && !braced {
                    value.push('$');
                }
                value.push_str(variable(&name, env));
            }
            (c, None) if c.is_whitespace() => out.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(Error::invalid(format!(
            "unexpected end of statement while looking for matching {quote}"
        )));
    }
    out.extend(word);
    Ok(out)
}

fn variable<'a>(name: &str, env: &'a [String]) -> &'a str {
    let mut values = env.iter().filter_map(|e| e.split_once('='));
    values.find(|(n, _)| *n == name).map_or("", |(_, v)| v)
}

/// Variables of a line that is not split.
fn expand(text: &str, env: &[String]) -> String {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    words(&format!("\"{quoted}\""), env).map(|w| w.concat()).unwrap_or_else(|_| text.to_owned())
}

/// `80`, `80/udp`, `80-82`: one entry for each port.
fn exposed(word: &str) -> Result<Vec<String>> {
    let bad = || Error::invalid(format!("Invalid containerPort: {word}"));
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("Invalid proto: {protocol}")));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `NONE`, or options and `CMD ...`.
fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("Missing a value on flag: {option}")))?;
        let duration = || {
            time::parse_duration(value)
                .and_then(|d| i64::try_from(d.as_nanos()).ok())
                .ok_or_else(|| Error::invalid(format!("time: invalid duration \"{value}\"")))
        };
        match name {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => {
                check.retries = value
                    .parse()
                    .ok()
                    .filter(|n| *n >= 0)
                    .ok_or_else(|| Error::invalid(format!("--retries cannot be negative ({value})")))?;
            }
            other => return Err(Error::invalid(format!("unknown flag: --{other}"))),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".into()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        "CMD" => match list(command) {
            Some(words) => [vec!["CMD".into()], words].concat(),
            None => vec!["CMD-SHELL".into(), command.to_owned()],
        },
        other => return Err(Error::invalid(format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"))),
    };
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<Config> {
        let mut config = Config { env: vec!["HOME=/root".into()], ..Config::default() };
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        apply(&mut config, &lines).map(|()| config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let c = changed(&[
            "ENV A=1 B=\"two words\" C=$HOME/x\nENV OLD the rest",
            "cmd echo hi",
            "ENTRYPOINT [\"/e\", \"x\"]",
            "EXPOSE 80 53/udp 90-91",
            "LABEL a=b 'c d'=e",
            "VOLUME [\"/v\", \"/w\"]",
            "WORKDIR /a",
            "WORKDIR b",
            "USER me",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl localhost",
        ])
        .unwrap();
        assert_eq!(c.env, ["HOME=/root", "A=1", "B=two words", "C=/root/x", "OLD=the rest"]);
        assert_eq!(c.cmd.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(c.entrypoint.unwrap(), ["/e", "x"]);
        let ports: Vec<&String> = c.exposed_ports.keys().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "90/tcp", "91/tcp"]);
        assert_eq!(c.labels["c d"], "e");
        assert!(c.volumes.contains_key("/w"));
        assert_eq!(
            (c.working_dir.as_str(), c.user.as_str(), c.stop_signal.as_str()),
            ("/a/b", "me", "SIGINT")
        );
        let check = c.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 2));
        assert_eq!(check.test, ["CMD-SHELL", "curl localhost"]);
    }

    #[test]
    fn what_is_wrong_is_said_in_dockers_words() {
        for (line, words) in [
            ("FOO x", "FOO is not a valid change command"),
            ("RUN x", "RUN is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("LABEL a", "LABEL must have two arguments"),
            ("EXPOSE x", "Invalid containerPort: x"),
            ("WORKDIR", "WORKDIR requires exactly one argument"),
        ] {
            assert_eq!(changed(&[line]).unwrap_err().message, words);
        }
        assert!(changed(&["ENV A=\"open"]).is_err());
    }
}
