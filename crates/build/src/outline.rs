//! What a build can be given: arguments, secrets, agents (`docker build --call=outline`).

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::instructions::Arg;
use crate::graph::Range;

/// What a stage can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Arguments that are declared.
    pub args: BTreeMap<String, ArgInfo>,
    /// Arguments that count.
    pub used: BTreeSet<String>,
    /// Secrets, each with whether it must be there.
    pub secrets: BTreeMap<String, (bool, Range)>,
    /// Agents, each with whether it must be there.
    pub ssh: BTreeMap<String, (bool, Range)>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgInfo {
    /// Its value.
    pub value: String,
    /// What its comment says.
    pub comment: String,
    /// Arguments that its default is made of.
    pub needs: BTreeSet<String>,
    /// Where.
    pub lines: Range,
}

impl ArgInfo {
    /// One that is declared here.
    pub fn new(arg: &Arg, lines: Range) -> ArgInfo {
        ArgInfo { value: String::new(), comment: arg.comment.clone(), needs: BTreeSet::new(), lines }
    }
}

impl Outline {
    /// Arguments that others are made of count as well.
    pub fn mark_needed(&mut self) {
        let mut open: Vec<String> = self.used.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let needs = self.args.get(&name).map(|a| a.needs.clone()).unwrap_or_default();
            open.extend(needs.into_iter().filter(|n| self.used.insert(n.clone())));
        }
    }
}
