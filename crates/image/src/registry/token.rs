//! Asking token servers (distribution's token authentication specification).

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;

use super::{ANSWER_BYTES, Credentials, Endpoint, Registries, Url, causes, read_bounded, registry, url};
use crate::Error;

/// Name a token server gets to know for us.
const CLIENT_ID: &str = "coracle";

/// What a token server is asked for.
pub(super) struct Question<'a> {
    /// Its address.
    pub(super) realm: &'a str,
    /// Name of the registry that the token is for.
    pub(super) service: &'a str,
    /// What the token must allow: `repository:NAME:pull,push`.
    pub(super) scopes: &'a [String],
    /// The user who logs in: asks for an identity token too.
    pub(super) login: Option<&'a str>,
}

/// What it gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// For requests to the registry.
    pub(super) access: String,
    /// To be kept in place of the password.
    pub(super) identity: Option<String>,
}

impl Registries {
    /// Asks a token server; `None` when it refuses the credentials.
    pub(super) async fn token(
        &self,
        endpoint: &Endpoint,
        credentials: Option<&Credentials>,
        question: &Question<'_>,
    ) -> Result<Option<Token>, Error> {
        let realm = question.realm;
        let mut target = Url::parse(realm).map_err(|e| registry(realm, e))?;
        if target.scheme() != "https" && !(endpoint.insecure && target.scheme() == "http") {
            return Err(registry(realm, "the token server is not https and the registry is not insecure"));
        }
        let client = self.client(endpoint)?;
        let request = if let Some(Credentials::IdentityToken(refresh)) = credentials {
            let scopes = question.scopes.join(" ");
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("service", question.service),
                ("client_id", CLIENT_ID),
                ("refresh_token", refresh),
            ];
            if !scopes.is_empty() {
                form.push(("scope", &scopes));
            }
            let form = url::form(&form);
            client.post(target).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
        } else {
            let mut query = target.query_pairs_mut();
            query.append_pair("service", question.service).append_pair("client_id", CLIENT_ID);
            // One by one: servers need not take a list apart.
            for scope in question.scopes {
                query.append_pair("scope", scope);
            }
            if let Some(user) = question.login {
                query.append_pair("account", user).append_pair("offline_token", "true");
            }
            drop(query);
            let request = client.get(target);
            match credentials.and_then(Credentials::basic) {
                Some(basic) => request.header(AUTHORIZATION, basic),
                None => request,
            }
        };
        let response = request.send().await.map_err(|e| registry(realm, causes(&e)))?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(None);
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            refresh_token: Option<String>,
        }
        let body = read_bounded(response, ANSWER_BYTES).await.map_err(|e| registry(realm, e))?;
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        serde_json::from_slice::<Answer>(&body)
            .ok()
            .filter(|_| status.is_success())
            .and_then(|a| {
                let access = given(a.token).or(given(a.access_token))?;
                Some(Some(Token { access, identity: given(a.refresh_token) }))
            })
            .ok_or_else(|| registry(realm, format!("no token in the answer ({status})")))
    }
}
