//! A request as handlers see it: path parameters, query, body, version.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http_body_util::{BodyExt, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use serde::de::DeserializeOwned;

use super::body::Heard;
use super::go_json;
use super::presence::Left;
use crate::error::{Error, Result};
use crate::time;

/// Largest body that is held whole, JSON above all, in bytes; dockerd takes as much as it has memory for.
const BODY_LIMIT: usize = 8 << 20;

/// A version of Docker's API, such as 1.51.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Version {
    /// Reads `1.51`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// A request after routing.
pub struct Call {
    /// The operation's path parameters, decoded.
    pub params: Vec<String>,
    /// Query parameters; the first of a name counts, unless all are asked for.
    pub query: Vec<(String, String)>,
    /// Headers.
    pub headers: HeaderMap,
    /// The API version of the path, or the newest.
    pub version: Version,
    /// The body, not yet read.
    pub body: Heard,
    /// Tells when the client has gone away.
    pub left: Left,
}

impl Call {
    /// Makes it from what hyper gives.
    pub fn new(request: Request<Heard>, params: Vec<String>, version: Version) -> Self {
        let query = request.uri().query().map(parse_query).unwrap_or_default();
        let (mut parts, body) = request.into_parts();
        let left = parts.extensions.remove().unwrap_or_default();
        Self { params, query, headers: parts.headers, version, body, left }
    }

    /// The n-th path parameter.
    pub fn param(&self, n: usize) -> &str {
        self.params.get(n).map_or("", String::as_str)
    }

    /// A query parameter, empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.query.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// All values of a query parameter.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.query.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    /// A flag, as Docker reads one: everything but empty, `0`, `no`, `false` and `none` is true.
    pub fn flag(&self, name: &str) -> bool {
        !matches!(self.get(name).trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number, if one is given.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                // Go's words, and its status for them.
                .map_err(|_| Error::internal(format!("strconv.Atoi: parsing \"{text}\": invalid syntax"))),
        }
    }

    /// The `filters` parameter: name -> values. Takes lists and the older maps of booleans.
    pub fn filters(&self) -> Result<Filters> {
        Filters::parse(self.get("filters"))
    }

    /// The body as JSON; the content type must say so when there is a body.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        go_json::from_slice(&self.declared_json().await?)
    }

    /// The same, or the default when there is no body.
    pub async fn json_or_default<T: DeserializeOwned + Default>(self) -> Result<T> {
        let bytes = self.declared_json().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { go_json::from_slice(&bytes) }
    }

    async fn declared_json(self) -> Result<bytes::Bytes> {
        let declared = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let bytes = self.bytes().await?;
        if !bytes.is_empty() && declared.split(';').next().map(str::trim) != Some("application/json") {
            let shown = if declared.is_empty() { "application/octet-stream" } else { &declared };
            return Err(Error::invalid(format!(
                "unsupported Content-Type header ({shown}): must be 'application/json'"
            )));
        }
        Ok(bytes)
    }

    /// The body as it is.
    pub async fn bytes(self) -> Result<bytes::Bytes> {
        match Limited::new(self.body, BODY_LIMIT).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => {
                Err(Error::invalid(format!("request body is larger than {} MiB", BODY_LIMIT >> 20)))
            }
            Err(e) => Err(Error::invalid(format!("error reading request body: {e}"))),
        }
    }
}

/// The `filters` of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    fn parse(text: &str) -> Result<Self> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Values {
            List(Vec<String>),
            Map(BTreeMap<String, bool>),
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parsed: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|_| Error::invalid("invalid filter"))?;
        let flatten = |(key, values)| match values {
            Values::List(list) => (key, list),
            Values::Map(map) => (key, map.into_iter().filter(|(_, on)| *on).map(|(v, _)| v).collect()),
        };
        Ok(Self(parsed.into_iter().map(flatten).collect()))
    }

    /// Refuses filters the operation does not have, in Docker's words.
    pub fn only(self, known: &[&str]) -> Result<Self> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(self),
        }
    }

    /// The values of one filter; empty when it is not given.
    pub fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether the filter is absent or one of its values equals `value`.
    pub fn allows(&self, key: &str, value: &str) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(|v| v == value)
    }

    /// Whether the filter is absent or `test` holds for one of its values.
    pub fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(|v| test(v))
    }

    /// Whether all `label` filters (`key` or `key=value`) match.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let matches = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").iter().all(matches) && !self.values("label!").iter().any(matches)
    }

    /// Whether one of the filter's values is one of `texts`, or as a regular expression is found in one; true when
    /// there is no such filter.
    pub fn matches(&self, key: &str, texts: &[&str]) -> bool {
        self.any(key, |v| {
            texts.contains(&v)
                || regex::Regex::new(v).is_ok_and(|pattern| texts.iter().any(|t| pattern.is_match(t)))
        })
    }

    /// The point before which things must have been made to be pruned.
    pub fn until(&self) -> Result<Option<SystemTime>> {
        match self.values("until") {
            [] => Ok(None),
            [one] => time::parse_point(one)
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("failed to parse value as time or duration: {one:?}"))),
            _ => Err(Error::invalid("more than one until filter specified")),
        }
    }

    /// A yes-or-no filter.
    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        match self.values(key) {
            [] => Ok(None),
            [one] if matches!(one.as_str(), "1" | "true") => Ok(Some(true)),
            [one] if matches!(one.as_str(), "0" | "false") => Ok(Some(false)),
            other => Err(Error::invalid(format!("invalid filter '{key}=[{}]'", other.join(" ")))),
        }
    }
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(k, true), decode(v, true))
        })
        .collect()
}

/// Undoes percent encoding (and `+` for a space, in a query); what is not valid stays as it is.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            (b'+', ..) if plus_is_space => {
                out.push(b' ');
                i += 1;
            }
            (other, ..) => {
                out.push(other);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        assert_eq!(
            parse_query("a=1&b=x%2Fy+z&c"),
            [("a".into(), "1".into()), ("b".into(), "x/y z".into()), ("c".into(), String::new())]
        );
        assert_eq!(decode("100%", false), "100%");
    }

    #[test]
    fn filters_come_as_lists_or_maps() {
        let list = Filters::parse(r#"{"label":["a=b"]}"#).unwrap();
        assert_eq!(list, Filters::parse(r#"{"label":{"a=b":true,"c":false}}"#).unwrap());
        assert!(list.labels(&BTreeMap::from([("a".into(), "b".into())])));
        assert!(!list.labels(&BTreeMap::from([("a".into(), "x".into())])));
        assert_eq!(
            Filters::parse(r#"{"x":["1"]}"#).unwrap().only(&["label"]).unwrap_err().message,
            "invalid filter 'x'"
        );
        assert!(Filters::parse("[]").is_err());
    }
}
