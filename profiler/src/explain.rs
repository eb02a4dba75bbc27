//! `profiler explain`: what was found in every file that a process has mapped, which places would be probed and why, and
//! what not and why not. Looks only; nothing is attached.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode};

use profiler_common::alloc::AllocFunction;
use serde::Serialize;

use crate::{
    binary::{
        Hook, Image, Layer, LeftOut, SiteKind,
        python::{Current, Domain, Python, PythonHook},
    },
    export::terminal::Style,
    screen::SCREEN,
    session::{self, Images},
    target::{MappedObject, Process},
    text::clean,
};

#[derive(Serialize)]
struct Explanation {
    pid: u32,
    comm: String,
    exe: Option<String>,
    /// Every file of which something is mapped executable.
    objects: Vec<Object>,
}

#[derive(Serialize)]
struct Object {
    path: String,
    /// Why nothing can be said of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    build_id: Option<String>,
    /// The tables that its functions' names come from.
    symbols: Vec<&'static str>,
    /// What is wrong with tables that couldn't be used.
    problems: Vec<String>,
    /// Why functions of an allocator, if it has any, can't be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    lacks_symbols: Option<String>,
    /// Whether a probe there tells of libraries that are mapped later.
    tells_of_libraries: bool,
    hooks: Vec<Probe>,
    left_out: Vec<NotProbed>,
    /// The layers of a Python interpreter, which `--python on` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    python: Option<PythonLayers>,
}

#[derive(Serialize)]
struct PythonLayers {
    functions: Vec<PythonFunction>,
    /// What each domain's allocator is now, by domain.
    allocators: Vec<(&'static str, &'static str)>,
    notes: Vec<String>,
}

/// A function of a layer, with all the places where it is called.
#[derive(Serialize)]
struct PythonFunction {
    allocator: &'static str,
    function: &'static str,
    names: Vec<String>,
    places: usize,
    /// How many of them are at an instruction that the kernel emulates.
    emulated: usize,
}

#[derive(Serialize)]
struct Probe {
    allocator: &'static str,
    function: &'static str,
    names: Vec<String>,
    address: u64,
    offset: u64,
    instruction: String,
    kind: &'static str,
    reason: String,
    /// The registers that hold the arguments there.
    registers: Vec<String>,
    /// Addresses of the instructions by which the allocator calls the function itself; what they count is subtracted.
    internal_calls: Vec<u64>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct NotProbed {
    allocator: &'static str,
    function: String,
    reason: String,
}

/// Explains a process.
///
/// # Errors
///
/// If it can't be looked at, or standard output can't be written.
pub fn run(pid: u32, json: bool, all: bool, mut images: Images) -> anyhow::Result<ExitCode> {
    let process = Process::open(pid)?;
    let objects = process.mapped_objects()?;
    let explanation = Explanation {
        pid,
        comm: process.comm()?,
        exe: process.exe(),
        objects: objects.iter().map(|object| explain(&mut images, &process, object)).collect(),
    };
    let text = if json {
        serde_json::to_string_pretty(&explanation)? + "\n"
    } else {
        render(&explanation, all, SCREEN.style())
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn explain(images: &mut Images, process: &Process, object: &MappedObject) -> Object {
    let mut explained = Object {
        path: clean(&object.path),
        error: None,
        build_id: None,
        symbols: Vec::new(),
        problems: Vec::new(),
        lacks_symbols: None,
        tells_of_libraries: false,
        hooks: Vec::new(),
        left_out: Vec::new(),
        python: None,
    };
    match images.look_at(process, object) {
        None => explained.error = Some("it can't be opened".to_owned()),
        Some((_, analysis)) => match analysis.as_ref() {
            Err(error) => explained.error = Some(error.to_string()),
            Ok(image) => {
                explained.fill(image);
                explained.python = image.python.as_ref().map(|python| layers(process, object, python));
            }
        },
    }
    explained
}

impl Object {
    fn fill(&mut self, image: &Image) {
        self.build_id.clone_from(&image.build_id);
        self.symbols = image.symbols.iter().map(|source| source.name()).collect();
        self.problems.clone_from(&image.symbol_problems);
        self.lacks_symbols = image.lacks_symbols().map(str::to_owned);
        self.tells_of_libraries = image.loader.is_some();
        self.hooks = image.hooks.iter().map(probe).collect();
        let of_python = image.python.iter().flat_map(|python| &python.left_out);
        self.left_out = image.left_out.iter().chain(of_python).map(not_probed).collect();
    }

    /// Whether there is anything to say.
    fn matters(&self) -> bool {
        self.error.is_some()
            || self.lacks_symbols.is_some()
            || !self.hooks.is_empty()
            || !self.left_out.is_empty()
            || self.python.is_some()
    }
}

fn layers(process: &Process, object: &MappedObject, python: &Python) -> PythonLayers {
    let current = session::allocators(process, object, python);
    let mut functions: BTreeMap<(Layer, AllocFunction), PythonFunction> = BTreeMap::new();
    for PythonHook { hook, .. } in python.choose(current) {
        let one = functions.entry((hook.layer, hook.function)).or_insert_with(|| PythonFunction {
            allocator: hook.layer.name(),
            function: hook.function.name(),
            names: Vec::new(),
            places: 0,
            emulated: 0,
        });
        one.places += 1;
        one.emulated += usize::from(hook.site.kind == SiteKind::Emulated);
        for name in hook.names.iter().map(|name| clean(name)) {
            if !one.names.contains(&name) {
                one.names.push(name);
            }
        }
    }
    let meanings = current.map(Current::meaning);
    PythonLayers {
        functions: functions.into_values().collect(),
        allocators: Domain::ALL.map(Domain::name).into_iter().zip(meanings).collect(),
        notes: python.notes.clone(),
    }
}

fn probe(hook: &Hook) -> Probe {
    let registers = hook.registers.iter().take(hook.op.arguments());
    Probe {
        allocator: hook.layer.name(),
        function: hook.function.name(),
        names: hook.names.iter().map(|name| clean(name)).collect(),
        address: hook.address,
        offset: hook.site.offset,
        instruction: hook.site.instruction.clone(),
        kind: hook.site.kind.name(),
        reason: hook.site.reason.clone(),
        registers: registers.map(|register| format!("{register:?}").to_lowercase()).collect(),
        internal_calls: hook.internal_calls.iter().map(|call| call.address).collect(),
        notes: hook.caveats(),
    }
}

fn not_probed(left: &LeftOut) -> NotProbed {
    NotProbed {
        allocator: Layer::name(left.layer),
        function: clean(&left.name),
        reason: left.reason.to_string(),
    }
}

fn render(explanation: &Explanation, all: bool, style: Style) -> String {
    let exe = explanation.exe.as_deref().unwrap_or(&explanation.comm);
    let mut lines = vec![format!("{} · pid {} · {exe}", style.bold(&explanation.comm), explanation.pid)];
    let (shown, others): (Vec<_>, Vec<_>) =
        explanation.objects.iter().partition(|object| all || object.matters());
    for object in shown {
        lines.push(String::new());
        lines.push(style.bold(&object.path));
        object_lines(&mut lines, object, style);
    }
    if !others.is_empty() {
        lines.push(String::new());
        let which = if others.len() == 1 { "file defines" } else { "files define" };
        lines.push(
            style.dim(&format!(
                "{} more mapped {which} no allocator function (--all lists them)",
                others.len()
            )),
        );
    }
    let hooks = explanation.objects.iter().flat_map(|object| &object.hooks);
    let (probed, emulated) = hooks.fold((0, 0), |(all, cheap), hook| {
        (all + 1, cheap + usize::from(hook.kind == SiteKind::Emulated.name()))
    });
    lines.push(String::new());
    lines.push(match probed {
        0 => style.warn("nothing would be probed: allocator calls of this process can't be counted"),
        _ => format!("{probed} functions would be probed, {emulated} of them at an instruction that the kernel emulates"),
    });
    lines.push(String::new());
    lines.join("\n")
}

fn object_lines(lines: &mut Vec<String>, object: &Object, style: Style) {
    let symbols = if object.symbols.is_empty() { "none".to_owned() } else { object.symbols.join(", ") };
    let build_id = object.build_id.as_deref().unwrap_or("none");
    lines.push(style.dim(&format!("  build id {build_id} · symbols: {symbols}")));
    if let Some(error) = &object.error {
        lines.push(style.warn(&format!("  can't be analysed: {error}")));
    }
    for problem in &object.problems {
        lines.push(style.warn(&format!("  {}", clean(problem))));
    }
    if let Some(reason) = &object.lacks_symbols {
        lines.push(style.warn(&format!("  {reason}")));
    }
    if object.tells_of_libraries {
        lines.push(style.dim("  a probe on _dl_debug_state tells of libraries that are mapped later"));
    }
    for hook in &object.hooks {
        let name = hook.names.first().map_or(hook.function, String::as_str);
        lines.push(format!(
            "  {:<9} {:<24} {:<16} {:<28} {}",
            hook.allocator,
            name,
            format!("{:#x}+{}", hook.address, hook.offset),
            hook.instruction,
            if hook.kind == SiteKind::Emulated.name() { hook.kind.to_owned() } else { style.warn(hook.kind) },
        ));
        if hook.names.len() > 1 {
            lines.push(style.dim(&format!("  {:<9} also {}", "", hook.names[1..].join(", "))));
        }
        if hook.kind != SiteKind::Emulated.name() {
            lines.push(style.dim(&format!("  {:<9} {}", "", hook.reason)));
        }
        if !hook.internal_calls.is_empty() {
            let text =
                format!("the allocator calls it itself at {} places; not counted", hook.internal_calls.len());
            lines.push(style.dim(&format!("  {:<9} {text}", "")));
        }
        for note in &hook.notes {
            lines.push(style.warn(&format!("  {:<9} {note}", "")));
        }
    }
    for left in &object.left_out {
        lines.push(
            style.dim(&format!("  {:<9} {:<24} no probe: {}", left.allocator, left.function, left.reason)),
        );
    }
    if let Some(python) = &object.python {
        python_lines(lines, python, style);
    }
}

fn python_lines(lines: &mut Vec<String>, python: &PythonLayers, style: Style) {
    lines.push("  Python's own layers, counted only with --python on:".to_owned());
    for one in &python.functions {
        lines.push(format!(
            "  {:<17} {:<34} {:>4} {}, {} emulated",
            one.allocator,
            one.names.join(", "),
            one.places,
            if one.places == 1 { "place" } else { "places" },
            one.emulated,
        ));
    }
    for (domain, meaning) in &python.allocators {
        lines.push(style.dim(&format!("  {domain:<9} now {meaning}")));
    }
    for note in &python.notes {
        lines.push(style.warn(&format!("  {note}")));
    }
}
