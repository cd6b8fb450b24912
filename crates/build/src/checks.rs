//! Build checks: what is not wrong but seldom meant, with BuildKit's rules and words.

use crate::Error;
use crate::dockerfile::text::{parse_bool, quote};
use crate::graph::{Range, Warning};

/// A rule. Its address is `https://docs.docker.com/go/dockerfile/rule/` and its name in lower case with hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    name: &'static str,
    page: &'static str,
    description: &'static str,
    experimental: bool,
}

macro_rules! rules {
    ($($id:ident $name:literal $page:literal $experimental:literal $description:literal;)*) => {
        impl Rule {
            $(
                #[doc = $description]
                pub const $id: Rule = Rule {
                    name: $name, page: $page, description: $description, experimental: $experimental,
                };
            )*
        }
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" "stage-name-casing" false "Stage names should be lowercase";
    FROM_AS_CASING "FromAsCasing" "from-as-casing" false
        "The 'as' keyword should match the case of the 'from' keyword";
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" "no-empty-continuation" false
        "Empty continuation lines will become errors in a future release";
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing" "consistent-instruction-casing" false
        "All commands within the Dockerfile should use the same casing (either upper or lower)";
    DUPLICATE_STAGE_NAME "DuplicateStageName" "duplicate-stage-name" false "Stage names should be unique";
    RESERVED_STAGE_NAME "ReservedStageName" "reserved-stage-name" false
        "Reserved words should not be used as stage names";
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended" "json-args-recommended" false
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    MAINTAINER_DEPRECATED "MaintainerDeprecated" "maintainer-deprecated" false
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" "undefined-arg-in-from" false "FROM command must use declared ARGs";
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath" "workdir-relative-path" false
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    UNDEFINED_VAR "UndefinedVar" "undefined-var" false "Variables should be defined before their use";
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed" "multiple-instructions-disallowed" false
        "Multiple instructions of the same type should not be used in the same stage";
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat" "legacy-key-value-format" false
        "Legacy key/value format with whitespace separator should not be used";
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform" "" false
        "Base image platform does not match expected target platform";
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform" "redundant-target-platform" false
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv" "secrets-used-in-arg-or-env" false
        "Sensitive data should not be used in the ARG or ENV commands";
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom" "invalid-default-arg-in-from" false
        "Default value for global ARG results in an empty or invalid base image name";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed" "from-platform-flag-const-disallowed" false
        "FROM --platform flag should not use a constant value";
    COPY_IGNORED_FILE "CopyIgnoredFile" "copy-ignored-file" true
        "Attempting to Copy file that is excluded by .dockerignore";
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription" "invalid-definition-description" true
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    EXPOSE_PROTO_CASING "ExposeProtoCasing" "expose-proto-casing" false
        "Protocol in EXPOSE instruction should be lowercase";
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat" "expose-invalid-format" false
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
}

/// Which rules are looked at, and what they found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip: Names,
    experimental: Names,
    error: bool,
    /// What was found, in order.
    pub found: Vec<Warning>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: Vec<String>,
}

impl Names {
    fn read(text: &str) -> Names {
        let text = text.trim();
        match text {
            "all" => Names { all: true, names: Vec::new() },
            _ => Names { all: false, names: text.split(',').map(|n| n.trim().to_owned()).collect() },
        }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.iter().any(|n| n == name)
    }
}

impl Checks {
    /// Reads `skip=A,B;error=true;experimental=all`.
    ///
    /// # Errors
    /// An option that there is not.
    pub fn read(options: &str) -> Result<Checks, String> {
        let mut checks = Checks::default();
        if options.trim().is_empty() {
            return Ok(checks);
        }
        for part in options.trim().split(';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option {}", quote(part)));
            };
            match key.trim() {
                "skip" => checks.skip = Names::read(value),
                "experimental" => checks.experimental = Names::read(value),
                "error" => {
                    let value = value.trim();
                    checks.error = parse_bool(value).ok_or_else(|| {
                        let why = format!("strconv.ParseBool: parsing {}: invalid syntax", quote(value));
                        format!("failed to parse check option {}: {why}", quote(part))
                    })?;
                }
                key => return Err(format!("invalid check option {}", quote(key))),
            }
        }
        Ok(checks)
    }

    /// A rule found something.
    pub fn report(&mut self, rule: &Rule, lines: &[Range], message: String) {
        if self.skip.has(rule.name) || (rule.experimental && !self.experimental.has(rule.name)) {
            return;
        }
        let url = match rule.page {
            "" => String::new(),
            page => format!("https://docs.docker.com/go/dockerfile/rule/{page}/"),
        };
        self.found.push(Warning {
            rule: rule.name.to_owned(),
            description: rule.description.to_owned(),
            url,
            message,
            lines: lines.to_vec(),
        });
    }

    /// Fails where something was found and that was asked to be an error.
    ///
    /// # Errors
    /// The rules that found something.
    pub fn verdict(&self) -> Result<(), Error> {
        if !self.error || self.found.is_empty() {
            return Ok(());
        }
        let mut rules: Vec<&str> = Vec::new();
        for warning in &self.found {
            if !rules.contains(&warning.rule.as_str()) {
                rules.push(&warning.rule);
            }
        }
        Err(Error::invalid(format!("lint violation found for rules: {}", rules.join(", "))))
    }
}

/// Names that sound like a secret's, and do not say that they are none.
pub fn sounds_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_skipped_and_errors_are_errors() {
        let mut checks = Checks::read("skip=UndefinedVar, StageNameCasing;error=true").unwrap();
        checks.report(&Rule::UNDEFINED_VAR, &[], "x".into());
        checks.report(&Rule::INVALID_DEFINITION_DESCRIPTION, &[], "x".into());
        assert_eq!(checks.verdict(), Ok(()));
        checks.report(&Rule::FROM_AS_CASING, &[Range { start: 3, end: 3 }], "y".into());
        assert_eq!(checks.verdict().unwrap_err().message, "lint violation found for rules: FromAsCasing");
        assert_eq!(checks.found[0].short(), "FromAsCasing: y (line 3)");
        assert_eq!(Checks::read("foo=bar").unwrap_err(), "invalid check option \"foo\"");
    }

    #[test]
    fn names_that_sound_secret() {
        for name in ["MY_SECRET", "api_token", "PASSWORD", "GITHUB_AUTH"] {
            assert!(sounds_secret(name), "{name}");
        }
        for name in ["PUBLIC_KEY", "TOKEN_FILE", "KEYBOARD", "AUTHOR"] {
            assert!(!sounds_secret(name), "{name}");
        }
    }
}
