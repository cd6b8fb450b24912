//! Checking credentials (`docker login`): they are good when `/v2/` answers with them.

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};

use super::auth::{Challenge, Credentials};
use super::token::Question;
use super::{Endpoint, HUB_HOST, Registries, causes, registry};
use crate::Error;

impl Registries {
    /// Proves credentials at a registry. Gives back an identity token where its token server hands one out: it is
    /// then kept in place of the password.
    pub(crate) async fn login(
        &self,
        server: &str,
        user: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, Error> {
        let host = host(server);
        let mut last = None;
        for endpoint in self.endpoints(&host).into_iter().filter(|e| !e.mirror) {
            match self.login_at(&endpoint, user, credentials).await {
                Ok(token) => return Ok(token),
                Err(e @ Error::Registry { .. }) => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| registry(server, "no endpoint")))
    }

    async fn login_at(
        &self,
        endpoint: &Endpoint,
        user: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, Error> {
        let url = format!("{}/v2/", endpoint.base);
        let client = self.client(endpoint)?;
        let failed = |e: reqwest::Error| registry(&url, causes(&e));
        let first = client.get(&url).send().await.map_err(failed)?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return match first.status() {
                // It asks nobody for anything.
                status if status.is_success() => Ok(None),
                status => Err(registry(&url, format!("login attempt failed with status: {status}"))),
            };
        }
        let challenges = first.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().filter_map(|h| h.to_str().ok()).find_map(Challenge::parse);
        let (header, identity) = match (challenge, credentials) {
            (Some(Challenge::Basic), _) => {
                let header = credentials.basic().ok_or_else(|| wrong(&url))?;
                (header, None)
            }
            (Some(Challenge::Bearer { realm, service, .. }), _) => {
                let question = Question { realm: &realm, service: &service, scopes: &[], login: Some(user) };
                let token = self.token(endpoint, Some(credentials), &question).await?;
                let token = token.ok_or_else(|| wrong(&url))?;
                (format!("Bearer {}", token.access), token.identity)
            }
            (None, _) => return Err(registry(&url, "no way to log in that is known here")),
        };
        let second = client.get(&url).header(AUTHORIZATION, header).send().await.map_err(failed)?;
        match second.status() {
            status if status.is_success() => Ok(identity),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(wrong(&url)),
            status => Err(registry(&url, format!("login attempt failed with status: {status}"))),
        }
    }
}

fn wrong(url: &str) -> Error {
    Error::LoginFailed { url: url.into() }
}

/// The registry's host of an address as clients write it: `https://index.docker.io/v1/` is the Hub's.
fn host(server: &str) -> String {
    let host = super::host_of(server);
    match host {
        "" | "docker.io" | "index.docker.io" | HUB_HOST => crate::reference::DEFAULT_DOMAIN.into(),
        host => host.into(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_hosts() {
        for hub in ["", "https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"] {
            assert_eq!(super::host(hub), "docker.io", "{hub}");
        }
        assert_eq!(super::host("http://127.0.0.1:5000/v2/"), "127.0.0.1:5000");
        assert_eq!(super::host("ghcr.io"), "ghcr.io");
    }
}
