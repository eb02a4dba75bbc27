//! What programs were built from.

use std::borrow::Cow;

use super::Families;
use crate::{
    binary::go::{BuildInfo, Module},
    export::catalogue as c,
    snapshot::{ProgramDescription, TargetSnapshot},
};

/// A module as prommod names it: what was taken in place of a replaced one stands for it.
pub struct TakenModule<'a> {
    /// Path of what is in the program.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its checksum.
    pub sum: &'a str,
    /// The module in whose place it was taken, as `path@version`; else empty.
    pub replaces: Cow<'a, str>,
}

impl<'a> TakenModule<'a> {
    /// Of a module, what is in the program.
    pub fn of(module: &'a Module) -> Self {
        let (taken, replaces) = match module.replace.as_deref() {
            Some(taken) => (taken, Cow::Owned(format!("{}@{}", module.path, module.version))),
            None => (module, Cow::Borrowed("")),
        };
        Self { name: &taken.path, version: &taken.version, sum: &taken.sum, replaces }
    }
}

/// A program's short name: the last part of its main package's path, else of its file's.
pub fn short_name(program: &ProgramDescription) -> &str {
    let path = build_info(program).map_or("", |info| info.path.as_str());
    [path, &program.exe]
        .into_iter()
        .find_map(|path| path.rsplit('/').find(|part| !part.is_empty()))
        .unwrap_or_default()
}

/// What Go's linker has written, if it is known.
pub fn build_info(program: &ProgramDescription) -> Option<&BuildInfo> {
    program.go.as_ref()?.info.as_ref()
}

/// Everything of a target's programs.
pub(super) fn target(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    if !target.programs.is_empty() {
        let left_out =
            target.programs.iter().fold(0_u64, |sum, program| sum.saturating_add(program.left_out));
        out.count(&c::TARGET_PARTS_LEFT_OUT, &[name], left_out);
    }
    for program in &target.programs {
        for trouble in &program.trouble {
            out.flag(&c::TARGET_DESCRIPTION_UNAVAILABLE, &[name, trouble.what, trouble.kind], true);
        }
        let short = short_name(program);
        if program.go.is_some() {
            build(out, name, program, short);
        }
        for module in build_info(program).into_iter().flat_map(|info| &info.dependencies) {
            let TakenModule { name: path, version, sum, replaces } = TakenModule::of(module);
            out.flag(&c::GO_MOD_INFO, &[name, path, version, short, &replaces, sum], true);
        }
        for part in &program.parts {
            let labels = [name, part.kind, &part.name, &part.version, &part.build_id];
            out.flag(&c::TARGET_PART_INFO, &labels, true);
        }
    }
}

fn build(out: &mut Families, target: &str, program: &ProgramDescription, short: &str) {
    let Some(go) = &program.go else { return };
    let info = go.info.as_ref();
    let setting = |key: &str| info.and_then(|info| info.setting(key)).unwrap_or_default();
    let labels = [
        target,
        short,
        info.map_or("", |info| &info.path),
        info.and_then(|info| info.main.as_ref()).map_or("", |main| &main.version),
        &go.version,
        setting("vcs"),
        setting("vcs.revision"),
        setting("vcs.time"),
        setting("vcs.modified"),
        setting("-race"),
        setting("GOARCH"),
        setting("GOOS"),
        setting("CGO_ENABLED"),
    ];
    out.flag(&c::TARGET_BUILD_INFO, &labels, true);
}
