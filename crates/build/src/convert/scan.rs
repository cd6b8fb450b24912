//! What a scanner looks at besides the result, as arguments of the Dockerfile say (`BUILDKIT_SBOM_SCAN_CONTEXT`,
//! `BUILDKIT_SBOM_SCAN_STAGE`).

use super::resolve::reachable;
use super::state::{Context, StageRef};
use crate::Error;
use crate::dockerfile::expand::Env as _;
use crate::dockerfile::text::parse_bool;
use crate::graph::VertexRef;

/// Asks for the main context.
pub const OF_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Asks for stages.
pub const OF_STAGES: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// What is looked at besides.
#[derive(Debug, Default)]
pub struct Extras {
    /// Names and files.
    pub files: Vec<(String, Option<VertexRef>)>,
    /// Some of what is looked at is made anew, the target among it.
    pub anew: bool,
}

/// Finds it; nothing, where no scanner looks.
///
/// # Errors
/// The build's definition has grown too large.
pub fn extras(context: &mut Context<'_>, target: StageRef) -> Result<Extras, Error> {
    let mut files = Vec::new();
    if context.options.sbom.is_none() {
        return Ok(Extras::default());
    }
    if is_asked(context, target, OF_CONTEXT) {
        files.push(("context".to_owned(), Some(context.main_context()?)));
    }
    let mut anew = context.stages[target].no_cache;
    for stage in reachable(context, target) {
        // Images that files are taken from are nobody's stages.
        let is_stage = context.stages[stage].stage.is_some();
        if stage != target && is_stage && is_asked(context, stage, OF_STAGES) {
            let stage = &context.stages[stage];
            files.push((stage.shown.clone(), stage.root));
            anew |= stage.no_cache;
        }
    }
    Ok(Extras { files, anew })
}

/// Whether a stage is meant: by the last that is said of it, inside it or before all stages.
fn is_asked(context: &Context<'_>, stage: StageRef, name: &str) -> bool {
    let stage = &context.stages[stage];
    let inside = stage.build_args.iter().rev().filter(|a| a.key == name).find_map(|a| a.value.as_deref());
    let Some(value) = inside.or_else(|| context.global.get(name)) else { return false };
    parse_bool(value).unwrap_or_else(|| value.split(',').any(|meant| meant == stage.shown))
}
