//! The allocators in a file, by the names of their functions.

use std::collections::{BTreeMap, BTreeSet};

use profiler_common::alloc::Register;

use super::elf::Elf;
use super::names::{Family, Kind, Meaning, Role, meaning, sign};
use super::{Allocator, Function, Layer};

/// A function that allocates or frees by its name: all names of one address.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub address: u64,
    /// Whose it is; the same for all names at the address.
    pub allocator: Allocator,
    /// Whether it is an operator only: those may stand anywhere in a file.
    pub operator: bool,
    /// What stands before its name.
    pub prefix: String,
    pub role: Role,
    /// Of the default versions, in the order of the roles' functions.
    pub names: Vec<String>,
    /// How many bytes its code takes; 0 if that isn't known.
    pub size: u64,
}

impl Candidate {
    pub const fn layer(&self) -> Layer {
        Layer::Allocator(self.allocator)
    }

    pub fn registers(&self) -> [Register; 3] {
        self.role.registers()
    }

    pub const fn kind(&self) -> Kind {
        self.role.kind()
    }
}

/// What matters of the file that the names are in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct File<'a> {
    /// Its own name as a library.
    pub soname: Option<&'a str>,
    /// It is known to be glibc's `libc.so`.
    pub is_libc: bool,
    /// A program that has everything in it, a C library as well.
    pub is_static: bool,
    /// It can be started.
    pub is_program: bool,
}

/// What the names in a file say.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    /// By address.
    pub all: BTreeMap<u64, Candidate>,
    /// Functions that ask for blocks in the program's name: address and name.
    pub clients: Vec<(u64, String)>,
    /// Which allocator bears the plain names, `malloc` and so on.
    pub plain: Option<Allocator>,
}

/// The functions of a file by which allocators show, and all others that belong to those.
pub(super) fn functions(elf: &Elf<'_>) -> Vec<Function> {
    let text = |name: &[u8]| std::str::from_utf8(name).ok().map(str::to_owned);
    let signs = elf.functions(&|name| std::str::from_utf8(name).is_ok_and(|name| sign(name).is_some()));
    let families: BTreeSet<Family<'_>> = signs
        .iter()
        .filter_map(|function| match meaning(&function.name)? {
            Meaning::Role(family, _) => Some(family),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        return signs;
    }
    elf.functions(&|name| {
        let Some(name) = text(name) else { return false };
        match meaning(&name) {
            Some(Meaning::Role(family, _) | Meaning::Client(family)) => families.contains(&family),
            Some(Meaning::Companion) => true,
            None => false,
        }
    })
}

impl Candidates {
    /// Sorts the functions of a file.
    pub fn find(functions: &[Function], file: File<'_>) -> Self {
        // The dynamic linker's: up to glibc 2.31 it exports malloc, calloc, realloc and free (elf/dl-minimal.c), which are
        // in use only until libc.so is mapped and relocated; from then on libc's come first.
        if file.soname.is_some_and(|name| name.starts_with("ld-linux") || name.starts_with("ld64")) {
            return Self::default();
        }
        let mut by_prefix: BTreeMap<&str, Vec<(&Function, Role)>> = BTreeMap::new();
        let mut operators = Vec::new();
        let mut clients = Vec::new();
        let mut companions: BTreeMap<&str, &Function> = BTreeMap::new();
        for function in functions {
            match meaning(&function.name) {
                Some(Meaning::Role(Family::C(prefix), role)) => {
                    by_prefix.entry(prefix).or_default().push((function, role));
                }
                Some(Meaning::Role(Family::Operators, role)) => operators.push((function, role)),
                Some(Meaning::Client(_)) => clients.push((function.address, function.name.clone())),
                Some(Meaning::Companion) => {
                    companions.insert(&function.name, function);
                }
                None => (),
            }
        }
        by_prefix.retain(|prefix, members| is_an_allocator(prefix, members, file.is_program));
        let has = |name: &str| companions.contains_key(name);
        let mut identities: BTreeMap<&str, Allocator> = BTreeMap::new();
        for (prefix, members) in &by_prefix {
            identities.insert(prefix, identify(prefix, members, &has));
        }
        if file.is_libc && by_prefix.contains_key("") {
            identities.insert("", Allocator::Glibc);
        }
        // Names of several families at one address: the special one tells more than the plain one.
        let address = |prefix: &str, base: &str| {
            let name = format!("{prefix}{base}");
            let found = by_prefix.get(prefix)?.iter().find(|(function, _)| function.name == name);
            found.map(|(function, _)| function.address)
        };
        for special in ["mi_", "tc_"] {
            let same =
                |prefix| address(prefix, "malloc").is_some_and(|at| address(special, "malloc") == Some(at));
            for prefix in ["", "__libc_"] {
                if let (true, Some(&allocator)) = (same(prefix), identities.get(special)) {
                    identities.insert(prefix, allocator);
                }
            }
        }
        // glibc's malloc has that second name (malloc/malloc.c). A static program with another allocator may have both; in any
        // other file they are another allocator's, which has taken that name, too.
        let hidden = address("__libc_", "malloc");
        let holds_libc = file.is_libc || file.is_static;
        if !holds_libc {
            for prefix in ["", "__libc_"] {
                if let Some(allocator @ Allocator::Glibc) = identities.get_mut(prefix) {
                    *allocator = Allocator::Other;
                }
            }
        }
        match identities.get("") {
            Some(Allocator::Other) if holds_libc && hidden.is_some() && hidden == address("", "malloc") => {
                identities.insert("", Allocator::Glibc);
            }
            Some(Allocator::Glibc) if hidden.is_some() && hidden != address("", "malloc") => {
                identities.insert("", Allocator::Other);
            }
            _ => (),
        }
        // musl's inner functions have such names, too (src/malloc).
        if identities.get("") == Some(&Allocator::Musl) && identities.contains_key("__libc_") {
            identities.insert("__libc_", Allocator::Musl);
        }
        let plain = identities.get("").copied();

        let mut found = Self { plain, ..Self::default() };
        for (prefix, members) in &by_prefix {
            let allocator = identities.get(prefix).copied().unwrap_or(Allocator::Other);
            for (function, role) in members {
                found.add(function, *role, allocator, prefix, false);
            }
        }
        for (function, role) in operators {
            found.add(function, role, plain.unwrap_or(Allocator::Other), "", true);
        }
        for candidate in found.all.values_mut() {
            // The plain names first, as the program knows them.
            candidate.names.sort_by_key(|name| order(name));
            if let Some(Meaning::Role(_, role)) = candidate.names.first().and_then(|name| meaning(name))
                && role.op == candidate.role.op
            {
                candidate.role = role;
            }
        }
        let families: BTreeSet<&str> = by_prefix.keys().copied().collect();
        clients.retain(|(address, _)| families.contains("mi_") && !found.all.contains_key(address));
        found.clients = clients;
        found
    }

    /// Whether a client stands at an address.
    pub fn is_client(&self, address: u64) -> bool {
        self.clients.iter().any(|&(client, _)| client == address)
    }

    /// The plain names turn out to be this allocator's.
    pub fn reveal(&mut self, allocator: Allocator) {
        self.plain = Some(allocator);
        let unknown = |candidate: &&mut Candidate| {
            candidate.allocator == Allocator::Other && ["", "__libc_"].contains(&candidate.prefix.as_str())
        };
        for candidate in self.all.values_mut().filter(unknown) {
            candidate.allocator = allocator;
        }
    }

    /// The address of the plain `malloc`, if nobody knows whose it is.
    pub fn unknown_malloc(&self) -> Option<u64> {
        let malloc = |candidate: &&Candidate| candidate.names.iter().any(|name| name == "malloc");
        let found = self.all.values().find(malloc).filter(|_| self.plain == Some(Allocator::Other));
        found.map(|candidate| candidate.address)
    }

    fn add(&mut self, function: &Function, role: Role, allocator: Allocator, prefix: &str, operator: bool) {
        if !function.default_version {
            return;
        }
        let candidate = self.all.entry(function.address).or_insert_with(|| Candidate {
            address: function.address,
            allocator,
            operator,
            prefix: prefix.to_string(),
            role,
            names: Vec::new(),
            size: function.size,
        });
        candidate.size = candidate.size.max(function.size);
        if !candidate.names.contains(&function.name) {
            candidate.names.push(function.name.clone());
        }
    }
}

/// Plain names first, then the operators, then those with prefixes; `free` before `cfree`.
fn order(name: &str) -> (u8, u32, bool, String) {
    let (rank, function) = match meaning(name) {
        Some(Meaning::Role(Family::C(""), role)) => (0, role.function as u32),
        Some(Meaning::Role(Family::Operators, role)) => (1, role.function as u32),
        Some(Meaning::Role(Family::C(_), role)) => (2, role.function as u32),
        _ => (3, 0),
    };
    (rank, function, name == "cfree", name.to_string())
}

/// Whether the functions with a prefix are an allocator's: some libraries have one function of such a name.
fn is_an_allocator(prefix: &str, members: &[(&Function, Role)], is_program: bool) -> bool {
    let has =
        |base: &str| members.iter().any(|(function, _)| function.name.strip_prefix(prefix) == Some(base));
    if prefix == "mi_" || (!prefix.is_empty() && (has("mallocx") || has("sdallocx"))) {
        // mimalloc or jemalloc for certain. A program has only those functions that it uses, if the compiler gave each a
        // section of its own: so do Rust's crates.
        let does = |kind| members.iter().any(|(_, role)| role.kind() == kind);
        return does(Kind::Allocating) && does(Kind::Freeing);
    }
    // A program that never frees anything has no `free` in it, if everything is.
    let frees = has("free") || (prefix.is_empty() && is_program);
    has("malloc") && frees && (prefix.is_empty() || has("calloc") || has("realloc"))
}

fn identify(prefix: &str, members: &[(&Function, Role)], has: &dyn Fn(&str) -> bool) -> Allocator {
    let member =
        |base: &str| members.iter().any(|(function, _)| function.name.strip_prefix(prefix) == Some(base));
    if has(&format!("{prefix}mallctl")) || member("mallocx") || member("sdallocx") {
        return Allocator::Jemalloc;
    }
    match prefix {
        "mi_" => return Allocator::Mimalloc,
        "tc_" => return Allocator::Tcmalloc,
        "__libc_" => return Allocator::Glibc,
        "" => (),
        _ => return Allocator::Other,
    }
    if has("TCMallocInternalMalloc") || has("MallocExtension_ReleaseFreeMemory") {
        return Allocator::Tcmalloc;
    }
    // musl's libc.so is its dynamic linker, too, and finds its third stage by name (ldso/dynlink.c, __dls2b). In a static
    // program: mallocng's and the older allocator's functions.
    let musl = ["__dls3", "__libc_malloc_impl", "__malloc_donate", "__malloc_atfork", "__bin_chunk"];
    if musl.iter().any(|name| has(name)) {
        return Allocator::Musl;
    }
    if has("gnu_get_libc_version") { Allocator::Glibc } else { Allocator::Other }
}
