//! What is asked of registries without pulling: logins, searches, what a name stands for there.

use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::Reply;
use super::request::Call;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Results of a search when nobody says how many, and the most.
const RESULTS: u32 = 25;
const MOST_RESULTS: u32 = 100;

/// Docker's `AuthConfig`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthConfig {
    /// What a registry is told.
    pub fn credentials(mut self) -> Result<Option<image::Credentials>> {
        if self.username.is_empty() && !self.auth.is_empty() {
            let pair = base64::engine::general_purpose::STANDARD
                .decode(&self.auth)
                .map_err(|_| Error::invalid("invalid auth field in the credentials: not base64"))?;
            if let Some((user, password)) = String::from_utf8_lossy(&pair).split_once(':') {
                self.username = user.to_owned();
                self.password = password.to_owned();
            }
        }
        Ok(if !self.registrytoken.is_empty() {
            Some(image::Credentials::RegistryToken(self.registrytoken))
        } else if !self.identitytoken.is_empty() {
            Some(image::Credentials::IdentityToken(self.identitytoken))
        } else if !self.username.is_empty() {
            Some(image::Credentials::Basic { user: self.username, password: self.password })
        } else {
            None
        })
    }
}

/// `X-Registry-Auth`: base64url JSON; empty or `{}` means: no credentials.
pub fn credentials(call: &Call) -> Result<Option<image::Credentials>> {
    let Some(header) = call.headers.get("x-registry-auth") else { return Ok(None) };
    let bad = || Error::invalid("invalid X-Registry-Auth header: not base64url-encoded JSON");
    let text = header.to_str().map_err(|_| bad())?.trim_end_matches('=');
    if text.is_empty() {
        return Ok(None);
    }
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(text))
        .map_err(|_| bad())?;
    if raw.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice::<AuthConfig>(&raw).map_err(|_| bad())?.credentials()
}

/// `POST /auth`.
pub async fn auth(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let config: AuthConfig = call.json().await?;
    let (server, user) = (config.serveraddress.clone(), config.username.clone());
    let credentials = config.credentials()?.ok_or_else(|| Error {
        code: crate::error::Code::Unauthorized,
        message: "no credentials were given".into(),
    })?;
    let token = engine.images.login(&server, &user, &credentials).await?;
    Ok(Reply::json(json!({ "Status": "Login Succeeded", "IdentityToken": token.unwrap_or_default() })))
}

/// `GET /distribution/{name}/json`.
pub async fn distribution(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let reference: image::Reference = call.param(0).parse().map_err(Error::from)?;
    let found = engine.images.distribution(&reference, credentials(&call)?).await?;
    Ok(Reply::json(json!({ "Descriptor": found.descriptor, "Platforms": found.platforms })))
}

/// `GET /images/search`.
pub async fn search(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let limit = match call.number::<u32>("limit")? {
        None | Some(0) => RESULTS,
        Some(n) if n > MOST_RESULTS => {
            return Err(Error::invalid(format!("limit {n} is outside the range of [1, {MOST_RESULTS}]")));
        }
        Some(n) => n,
    };
    let filters = call.filters()?.only(&["is-automated", "is-official", "stars"])?;
    let official = filters.truth("is-official")?;
    let automated = filters.truth("is-automated")?;
    let mut stars = 0;
    for value in filters.values("stars") {
        let n: i64 = value.parse().map_err(|_| Error::invalid(format!("invalid filter 'stars={value}'")))?;
        stars = n.max(stars);
    }
    let found = engine.images.search(call.get("term"), limit).await?;
    let shown: Vec<Value> = found
        .into_iter()
        .filter(|f| {
            official.is_none_or(|o| o == f.is_official)
                // Docker's clients never show any as automated since the Hub stopped saying so.
                && automated.is_none_or(|a| !a)
                && f.star_count >= stars
        })
        .map(|f| {
            json!({
                "star_count": f.star_count, "is_official": f.is_official, "name": f.name, "is_automated": false,
                "description": f.description,
            })
        })
        .collect();
    Ok(Reply::json(json!(shown)))
}
