//! Puts together what a file tells of a Go program.

use std::collections::HashMap;

use super::build_info;
use super::image::{GoFile, Machine};
use super::layout::{Layout, Tables};
use super::moduledata::{self, ModuleData};
use super::pclntab::{Function, PcTable};
use super::recovery::recover;
use super::references::{data_spans, references};
use super::stops;
use super::tables::{self, choose};
use super::types;
use super::{BuildInfo, Found, Globals, GoError, GoImage, Places, Span};

/// What a program is called whose version isn't known; as Go's own runtime does.
const UNKNOWN: &str = "unknown";
/// Functions that stop all goroutines and let them go on.
const WORLDS: [&str; 2] = ["runtime.stopTheWorldWithSema", "runtime.startTheWorldWithSema"];
/// What goroutines of the user's can start with, of the runtime's own (`isSystemGoroutine` in Go's src/runtime/traceback.go).
const USER_STARTS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
/// The runtime's function that looks at its version.
const VERSION_USER: &str = "runtime.schedinit";
/// Bytes of a page: addresses are rounded down to whole ones.
const PAGE: u64 = 4096;

/// What a file says of the Go program in it; `None` if Go didn't make it.
///
/// # Errors
///
/// If it is no ELF file for a 64 bit little-endian machine, or a damaged one.
pub fn analyse(file: &[u8]) -> Result<Option<GoImage>, GoError> {
    analyse_with(file, tables::embedded())
}

/// As [`analyse`], with other tables.
pub(super) fn analyse_with(file: &[u8], tables: &[Tables]) -> Result<Option<GoImage>, GoError> {
    let file = GoFile::read(file)?;
    let info = build_info::read(&file);
    let code = PcTable::find(&file).and_then(|table| Some((table, moduledata::find(&file, &table)?)));
    if info.is_none() && code.is_none() {
        return Ok(None);
    }
    let (version, build) = match info {
        Some(info) => (Some(info.version), info.build),
        None => (
            code.as_ref().and_then(|(table, module)| version(&file, table, *module)),
            Err("the program has no build information".to_owned()),
        ),
    };
    let runtime = match (&version, &code) {
        (None, _) => Err("the program doesn't say which version of Go made it".to_owned()),
        (_, None) => Err("the program has no table of functions as Go has it since 1.18".to_owned()),
        (Some(version), Some((table, module))) => {
            let program =
                Program { file: &file, table, module: *module, version, build: build.as_ref().ok() };
            program.places(tables)
        }
    };
    Ok(Some(GoImage { version: version.unwrap_or_else(|| UNKNOWN.to_owned()), build, runtime }))
}

/// The version where there is no build information.
fn version(file: &GoFile<'_>, table: &PcTable<'_>, module: u64) -> Option<String> {
    let user = table.find_functions(&[VERSION_USER]).remove(VERSION_USER);
    let referred = user.zip(moduledata::text_start(file, module)).map(|(function, text)| {
        let found = references(file, span(text, &function), &data_spans(file));
        found.into_iter().map(|reference| reference.target).collect::<Vec<_>>()
    });
    build_info::version_in(file, referred.unwrap_or_default()).or_else(|| build_info::version_among(file))
}

fn span(text: u64, function: &Function) -> Span {
    Span { start: text.wrapping_add(function.entry), end: text.wrapping_add(function.end) }
}

/// A program whose version is known.
struct Program<'a> {
    file: &'a GoFile<'a>,
    table: &'a PcTable<'a>,
    module: u64,
    version: &'a str,
    build: Option<&'a BuildInfo>,
}

impl Program<'_> {
    fn places(&self, tables: &[Tables]) -> Result<Places, String> {
        let arch = match self.file.machine {
            Machine::Amd64 => "amd64",
            Machine::Arm64 => "arm64",
            Machine::Other(number) => {
                return Err(format!("it is for another machine (ELF's number {number})"));
            }
        };
        let chosen = choose(tables, arch, self.version)?;
        let mut known = chosen.table.clone();
        let layout = Layout::of(&known)?;
        let module = moduledata::read(self.file, self.module, &layout.module_data)
            .ok_or("the linker's data (runtime.firstmoduledata) make no sense")?;
        types::overrule(self.file, &module, &mut known);
        let layout = Layout::of(&known)?;
        let names = known.code.keys().map(String::as_str);
        let names: Vec<_> = names.chain(WORLDS).chain(USER_STARTS).collect();
        let functions = self.table.find_functions(&names);
        let functions: HashMap<&str, Span> =
            functions.iter().map(|(name, function)| (*name, span(module.text.start, function))).collect();
        let (found, globals) = match self.by_symbols() {
            Some(globals) => (Found::Symbols, globals),
            None => self.by_references(&functions, &module, &known)?,
        };
        let [stop, start] = WORLDS.map(|name| functions.get(name).copied());
        let site = |function: Option<Span>| stops::site(self.file, function?);
        let base = self.file.segments.iter().map(|segment| segment.address).min().unwrap_or(0);
        Ok(Places {
            base: base & !(PAGE - 1),
            table: chosen.version.to_owned(),
            exact: chosen.exact,
            found,
            globals,
            layout,
            text: module.text,
            worlds: stop.zip(start),
            world_sites: site(stop).zip(site(start)),
            user_starts: USER_STARTS.iter().filter_map(|name| Some(functions.get(name)?.start)).collect(),
        })
    }

    fn by_symbols(&self) -> Option<Globals> {
        if !self.file.has_symbols() {
            return None;
        }
        let found = self.file.symbols(NAMES);
        let found: HashMap<_, _> =
            NAMES.iter().zip(found).filter_map(|(name, found)| Some((*name, found?.0))).collect();
        globals(|name| found.get(name).copied()).ok()
    }

    fn by_references(
        &self,
        functions: &HashMap<&str, Span>,
        module: &ModuleData,
        table: &super::layout::Table,
    ) -> Result<(Found, Globals), String> {
        let flags = self.build.and_then(|build| build.setting("-gcflags")).unwrap_or("");
        if flags.split([' ', '=', '\'', '"']).any(|flag| flag == "-N") {
            return Err("without a symbol table the runtime's data are found by its code, and that was compiled without \
                        optimisation (-gcflags -N)"
                .to_owned());
        }
        // Of sections, there may be none left; what is mapped writable holds much else.
        let by_sections = data_spans(self.file);
        let data = if self.file.sections.is_empty() && !module.data.is_empty() {
            &module.data
        } else {
            &by_sections
        };
        let found = recover(self.file, functions, data, table)?;
        let globals = globals(|name| found.globals.get(name).copied())?;
        Ok((Found::References { same: found.same, of: found.of }, globals))
    }
}

/// The globals that symbols are asked for. Go 1.25 renamed `ncpu` to `numCPUStartup`.
const NAMES: [&str; 14] = [
    "runtime.memstats",
    "runtime.mheap_",
    "runtime.gcController",
    "runtime.sched",
    "runtime.allp",
    "runtime.allglen",
    "runtime.allgs",
    "runtime.gomaxprocs",
    "runtime.ncpu",
    "runtime.numCPUStartup",
    "runtime.emptymspan",
    "runtime.mbuckets",
    "runtime.mProfCycle",
    "runtime.MemProfileRate",
];

/// The globals by their names.
fn globals(find: impl Fn(&str) -> Option<u64>) -> Result<Globals, String> {
    let must = |name: &str| {
        find(name)
            .ok_or_else(|| format!("without a symbol table, {name} can't be found for sure in this program"))
    };
    Ok(Globals {
        memstats: must("runtime.memstats")?,
        mheap: must("runtime.mheap_")?,
        gc_controller: must("runtime.gcController")?,
        sched: must("runtime.sched")?,
        allp: must("runtime.allp")?,
        allglen: must("runtime.allglen")?,
        allgs: must("runtime.allgs")?,
        gomaxprocs: must("runtime.gomaxprocs")?,
        ncpu: find("runtime.ncpu").or_else(|| find("runtime.numCPUStartup")),
        emptymspan: find("runtime.emptymspan"),
        mbuckets: find("runtime.mbuckets"),
        mprof_cycle: find("runtime.mProfCycle"),
        mem_profile_rate: find("runtime.MemProfileRate"),
    })
}
