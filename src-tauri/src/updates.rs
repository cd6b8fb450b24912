//! News of a newer release: looked for, fetched and held to its signature by tauri's updater, when the person opens the
//! settings.
//!
//! Builds look for news where they were told to at their making: `CORACLE_UPDATES`, the address of a `latest.json` as the
//! updater defines it, and `CORACLE_UPDATES_KEY`, the public key (minisign's, base64) that releases are signed with. A
//! build without them, or without the feature `updates`, looks nowhere and shows nothing.
//!
//! What a package of Linux brought, the distribution's own tools replace: there the news only leads to the page of
//! `CORACLE_RELEASES`.

use app::words::Failure;
use serde::Serialize;
use tauri::AppHandle;

/// What there is to tell.
#[derive(Serialize)]
#[serde(tag = "updates", rename_all = "snake_case")]
pub enum News {
    /// This build looks nowhere.
    Nowhere,
    /// It is the newest.
    #[cfg(feature = "updates")]
    None,
    /// There is a newer one.
    #[cfg(feature = "updates")]
    Newer {
        /// Its version.
        version: String,
        /// What is new in it, in its makers' words.
        notes: Option<String>,
        /// Where it is had; none: it can be installed from here.
        page: Option<&'static str>,
    },
}

/// Looks for a newer release.
#[tauri::command]
pub async fn updates(app: AppHandle) -> Result<News, Failure> {
    real::look(&app).await
}

/// Installs the newer release and starts it.
#[tauri::command]
pub async fn update(app: AppHandle) -> Result<(), Failure> {
    real::install(&app).await
}

#[cfg(not(feature = "updates"))]
mod real {
    use super::*;

    pub async fn look(_: &AppHandle) -> Result<News, Failure> {
        Ok(News::Nowhere)
    }

    pub async fn install(_: &AppHandle) -> Result<(), Failure> {
        Err(app::AppError::Request("this build looks for updates nowhere".into()).failure())
    }
}

#[cfg(feature = "updates")]
mod real {
    use tauri_plugin_updater::{Update, UpdaterExt as _};

    use super::*;
    use crate::platform::INSTALLS_UPDATES;

    const FEED: Option<&str> = option_env!("CORACLE_UPDATES");
    const KEY: Option<&str> = option_env!("CORACLE_UPDATES_KEY");
    const PAGE: Option<&str> = option_env!("CORACLE_RELEASES");

    fn wrong(error: impl std::fmt::Display) -> Failure {
        app::AppError::Request(format!("looking for updates: {error}")).failure()
    }

    async fn newer(app: &AppHandle) -> Result<Option<Option<Update>>, Failure> {
        let (Some(feed), Some(key)) = (FEED, KEY) else { return Ok(None) };
        let feed = tauri::Url::parse(feed).map_err(wrong)?;
        let updater = app.updater_builder().endpoints(vec![feed]).map_err(wrong)?.pubkey(key).build();
        updater.map_err(wrong)?.check().await.map_err(wrong).map(Some)
    }

    pub async fn look(app: &AppHandle) -> Result<News, Failure> {
        Ok(match newer(app).await? {
            None => News::Nowhere,
            Some(None) => News::None,
            Some(Some(update)) => News::Newer {
                version: update.version,
                notes: update.body,
                page: if INSTALLS_UPDATES { None } else { PAGE },
            },
        })
    }

    pub async fn install(app: &AppHandle) -> Result<(), Failure> {
        if !INSTALLS_UPDATES {
            return Err(wrong("this system's own package tools install Coracle"));
        }
        match newer(app).await?.flatten() {
            None => Err(wrong("there is nothing newer")),
            Some(update) => {
                update.download_and_install(|_, _| {}, || {}).await.map_err(wrong)?;
                app.restart()
            }
        }
    }
}
