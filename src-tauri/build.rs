//! Tauri's own: embeds the configuration and the permissions.
fn main() {
    tauri_build::build()
}
