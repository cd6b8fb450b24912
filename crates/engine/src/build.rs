//! Which build this is.

/// Commit, with `-dirty` when the tree had changes; `unknown` outside a checkout.
pub const BUILD: &str = match option_env!("CORACLE_BUILD") {
    Some(build) => build,
    None => "unknown",
};
