//! The door to the kernel, without the rest: placing many probes at once or one by one, and what is told of processes.

mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::{BpfObject, LONG, bpf_object_exists, can_observe, helper::Helper, helper::compiled, within};
use object::{Object as _, ObjectSymbol as _};
use profiler::{
    binary,
    kernel::{
        AllocLink, Event, EventReader, EventScope, Followed, Kernel, KernelError, Placement, Plan, SitePlan,
        Sizes, detach_all,
    },
    target::Process,
};
use profiler_common::{
    alloc::{AllocCounts, AllocFunction, AllocSite},
    sched::ThreadState,
};

/// The tests of this file look at what the whole process holds: one at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const SIZES: Sizes = Sizes { targets: 64, sites: 2048 };

fn load(multi: bool, stalls: bool) -> Kernel {
    let plan = Plan {
        alloc: true,
        stalls,
        events: true,
        multi,
        mappings: false,
        samples: false,
        sessions: false,
        growth: None,
        victims: false,
        go_stops: false,
    };
    let kernel = Kernel::load(plan, SIZES, Duration::from_millis(1), false).expect("the kernel side loads");
    if !multi {
        assert_eq!(kernel.placement(), Placement::Single);
    }
    kernel
}

/// A mapped file of a process whose name begins like this.
fn mapped(pid: u32, name: &str) -> PathBuf {
    let objects = Process::open(pid).expect("it runs").mapped_objects().expect("it has maps");
    let is_it = |path: &Path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name));
    let object = objects.into_iter().find(|object| is_it(Path::new(&object.path)));
    PathBuf::from(object.unwrap_or_else(|| panic!("no {name} in process {pid}")).path)
}

/// `malloc` and `free` of the C library that a process has, counting under a slot.
fn malloc_and_free(pid: u32, slot: u32) -> (PathBuf, Vec<SitePlan>) {
    let libc = mapped(pid, "libc.so");
    let image = binary::analyse(&std::fs::read(&libc).expect("the C library"), None).expect("an ELF file");
    let plan = |function| {
        let hook = image.hooks.iter().find(|hook| hook.function == function).expect("a hook");
        let site = AllocSite {
            op: hook.op as u8,
            registers: hook.registers.map(|register| register as u8),
            flags: hook.flags,
            slot,
            reserved: 0,
        };
        SitePlan { file_offsets: vec![hook.site.file_offset], site, sampled: false }
    };
    (libc, vec![plan(AllocFunction::Malloc), plan(AllocFunction::Free)])
}

/// Probes in place, the process watched, counting on.
fn attach(kernel: &mut Kernel, pid: u32, slot: u32) -> AllocLink {
    let (file, plans) = malloc_and_free(pid, slot);
    let link = kernel.attach_alloc(pid, &file, &plans).expect("probes can be placed");
    kernel.watch_process(pid, slot, true).expect("it can be watched");
    kernel.count_calls(slot, true).expect("it can be counted");
    link
}

/// What `malloc` has counted, by bank.
fn mallocs(kernel: &Kernel, link: &AllocLink) -> [u64; 2] {
    kernel.alloc_counts(link.sites()[0]).expect("counts").map(|counts| counts.allocations)
}

fn events(kernel: &mut Kernel) -> EventReader {
    kernel.scope_events(EventScope::Targets).expect("a scope");
    kernel.take_events().expect("events")
}

/// Events until one that is waited for.
fn events_until(reader: &mut EventReader, mut is_last: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    let came = within(LONG, || {
        while let Some(event) = reader.next() {
            let last = is_last(&event);
            events.push(event);
            if last {
                return true;
            }
        }
        false
    });
    assert!(came, "what was waited for isn't among {events:?}");
    events
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// The ids of the links that this process has made (Documentation/bpf, fdinfo of a link).
fn links() -> BTreeSet<u32> {
    let files = std::fs::read_dir("/proc/self/fdinfo").expect("/proc");
    let texts = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("link_id:")?.trim().parse().ok());
    texts.filter_map(id).collect()
}

/// What the generations of a chain have allocated by bank, starting with the bank of the first, and the epochs that passed.
fn chain(multi: bool, stalls: bool, generations: u32, blocks: u64) -> Option<([u64; 2], u32)> {
    let program = if can_observe() { compiled("chain.c", &[])? } else { return None };
    let mut kernel = load(multi, stalls);
    let arguments = [generations.to_string(), blocks.to_string()];
    let mut helper = Helper::start(&program, &arguments);
    // Not the first slot, so that a mix-up would show.
    let link = attach(&mut kernel, helper.pid(), 5);
    let before = kernel.epoch(5).expect("an epoch");
    helper.work();
    let epochs = kernel.epoch(5).expect("an epoch") - before;
    let mut counts = mallocs(&kernel, &link);
    counts.rotate_left(before as usize % 2);
    Some((counts, epochs))
}

#[test]
fn a_program_that_replaces_itself_is_counted_from_its_first_allocation_in_a_bank_of_its_own() {
    let _turn = turn();
    for (multi, stalls) in [(true, false), (true, true), (false, false)] {
        let Some((idle, _)) = chain(multi, stalls, 2, 0) else { return };
        let Some((busy, epochs)) = chain(multi, stalls, 2, 5000) else { return };
        assert_eq!(epochs, 1, "multi {multi} stalls {stalls}");
        assert_eq!(busy[0] - idle[0], 5000, "the first generation: {busy:?} {idle:?}");
        assert_eq!(busy[1] - idle[1], 5000, "the second generation: {busy:?} {idle:?}");
    }
}

#[test]
fn forty_programs_one_after_another_lose_no_allocation() {
    let _turn = turn();
    let Some((idle, _)) = chain(true, false, 40, 0) else { return };
    let Some((busy, epochs)) = chain(true, false, 40, 600) else { return };
    assert_eq!(epochs, 39);
    assert_eq!(busy[0] - idle[0], 20 * 600);
    assert_eq!(busy[1] - idle[1], 20 * 600);
}

#[test]
fn a_program_replaced_by_another_thread_is_told_as_such() {
    let _turn = turn();
    let program = if can_observe() { compiled("chain.c", &[]) } else { return };
    let Some(program) = program else { return };
    for multi in [true, false] {
        let mut kernel = load(multi, true);
        let mut reader = events(&mut kernel);
        assert!(kernel.take_events().is_none(), "once only");
        let mut helper = Helper::start(&program, &["3", "1000", "thread"]);
        let pid = helper.pid();
        let link = attach(&mut kernel, pid, 5);
        helper.work();
        let mut seen = 0;
        let is_second = |event: &Event| {
            seen += u32::from(matches!(event, Event::Exec { .. }));
            seen == 2
        };
        for event in events_until(&mut reader, is_second) {
            let Event::Exec { pid: who, comm, by_main_thread, .. } = event else { panic!("{event:?}") };
            assert_eq!((who, by_main_thread), (pid, false));
            assert_eq!(comm, "exe", "the name by which it was started");
        }
        assert_eq!(kernel.epoch(5).expect("an epoch"), 2);
        // The kernel has lost sight of it (kernel/trace/bpf_trace.c, uprobe_multi_link_filter): the main thread's task is
        // another one now. One thread's record is all the C library has asked for meanwhile.
        let first: u64 = mallocs(&kernel, &link).iter().sum();
        assert!((1000..1010).contains(&first), "{first}");
    }
}

#[test]
fn every_fork_exec_and_exit_of_two_hundred_short_lives_is_told() {
    let _turn = turn();
    let program = if can_observe() { compiled("family.c", &[]) } else { return };
    let Some(program) = program else { return };
    for scope in [EventScope::All, EventScope::Targets] {
        let mut kernel = load(true, false);
        // In this order: taking the reader changes nothing about whose events there are.
        kernel.scope_events(scope).expect("a scope");
        let mut reader = kernel.take_events().expect("events");
        let mut helper = Helper::start(&program, &["200"]);
        let pid = helper.pid();
        kernel.watch_process(pid, 3, true).expect("it can be watched");
        let counts = helper.work();
        let ids = |key: &str| -> Vec<u32> {
            let list = counts[key].as_array().expect("a list").iter();
            list.map(|id| u32::try_from(id.as_u64().expect("an id")).expect("an id")).collect()
        };
        let (replaced, ended) = (ids("replaced"), ids("ended"));
        assert!(helper.end().success());
        let events =
            events_until(&mut reader, |event| matches!(event, Event::Exit { pid: who, .. } if *who == pid));
        let mut last = 0;
        let (mut forked, mut execs, mut exits) = (Vec::new(), Vec::new(), Vec::new());
        for event in &events {
            match event {
                Event::Fork { parent, child, at_ns } if *parent == pid => {
                    assert!(*at_ns > last);
                    last = *at_ns;
                    forked.push(*child);
                }
                Event::Exec { pid: who, comm, by_main_thread, .. } if comm == "true" && *by_main_thread => {
                    execs.push(*who);
                }
                Event::Exit { pid: who, .. } => exits.push(*who),
                // Other processes of this machine.
                _ => assert_eq!(scope, EventScope::All, "{event:?}"),
            }
        }
        let mut all: Vec<u32> = [replaced.clone(), ended].concat();
        all.sort_unstable();
        forked.sort_unstable();
        assert_eq!(forked, all, "{scope:?}");
        let (ours, told): (BTreeSet<u32>, BTreeSet<u32>) =
            (all.into_iter().collect(), exits.iter().copied().collect());
        if scope == EventScope::All {
            execs.retain(|who| ours.contains(who));
            assert_eq!(execs, replaced);
            assert!(ours.is_subset(&told), "{:?}", ours.difference(&told));
            let twice = exits.iter().filter(|who| ours.contains(who)).count();
            assert_eq!(twice, ours.len(), "no end is told twice");
        } else {
            assert_eq!(exits, [pid], "its children are no targets");
        }
        let lost: u64 = kernel.outcomes().expect("outcomes").iter().map(|(_, count)| count).sum();
        assert_eq!(lost, 0);
    }
}

#[test]
fn the_end_of_a_process_comes_with_its_last_thread() {
    let _turn = turn();
    let program = if can_observe() { compiled("family.c", &[]) } else { return };
    let Some(program) = program else { return };
    let mut kernel = load(true, false);
    let mut reader = events(&mut kernel);
    kernel.scope_events(EventScope::All).expect("a scope");
    // The sixth child, and every tenth from there, ends 30 ms after its main thread.
    let mut helper = Helper::start(&program, &["6"]);
    let counts = helper.work();
    let child = counts["ended"].as_array().and_then(|ids| ids.last()?.as_u64()).expect("an id");
    let is_exit = |event: &Event| matches!(event, Event::Exit { pid, .. } if u64::from(*pid) == child);
    let events = events_until(&mut reader, is_exit);
    let at = |found: &dyn Fn(&Event) -> Option<u64>| events.iter().find_map(found).expect("an event");
    let began = at(&|event| match event {
        Event::Fork { child: who, at_ns, .. } if u64::from(*who) == child => Some(*at_ns),
        _ => None,
    });
    let ended = at(&|event| match event {
        Event::Exit { pid, at_ns, .. } if u64::from(*pid) == child => Some(*at_ns),
        _ => None,
    });
    assert!(ended - began >= 30_000_000, "{} ns", ended - began);
}

#[test]
fn a_loop_of_dlopen_sends_one_event_until_it_is_handled() {
    let _turn = turn();
    let program = if can_observe() { compiled("loads.c", &[]) } else { return };
    let Some(program) = program else { return };
    for multi in [true, false] {
        let mut kernel = load(multi, false);
        let mut reader = events(&mut kernel);
        let mut helper = Helper::start(&program, &["libm.so.6", "3000"]);
        let pid = helper.pid();
        let linker = mapped(pid, "ld-linux");
        let bytes = std::fs::read(&linker).expect("the dynamic linker");
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("_dl_debug_state"));
        let address = symbol.expect("_dl_debug_state").address();
        let image = binary::analyse(&bytes, None).expect("an ELF file");
        let offset = image.file_offset_of(address).expect("it is in the file");
        let link = kernel.attach_loader(pid, &linker, offset, 9).expect("a probe");
        helper.tell("start");
        let mut handled = 0;
        let mut clearings = 0;
        let is_ours = |event: &Event| matches!(event, Event::Loaded { pid: who, slot: 9, .. } if *who == pid);
        handled += events_until(&mut reader, is_ours).len();
        helper.answer();
        // 6000 changes and more, and nobody has handled the first.
        assert!(reader.next().is_none());
        assert_eq!(handled, 1);
        kernel.clear_loaded(9).expect("a slot");
        clearings += 1;
        drop(link);
        assert!(reader.next().is_none());
        assert_eq!(handled, clearings);
    }
}

#[test]
fn a_forked_child_is_freed_of_the_breakpoints_it_has_inherited() {
    let _turn = turn();
    let program = if can_observe() { compiled("forks.c", &[]) } else { return };
    let Some(program) = program else { return };
    let mut kernel = load(true, false);
    if kernel.placement() == Placement::Single {
        // There the kernel removes it itself, at the first hit.
        return;
    }
    let mut helper = Helper::start(&program, &[""]);
    let link = attach(&mut kernel, helper.pid(), 0);
    let child = u32::try_from(helper.work()["child"].as_u64().expect("an id")).expect("an id");
    let (file, plans) = malloc_and_free(helper.pid(), 0);
    let offset = plans[0].file_offsets[0];
    let byte = |pid: u32| {
        let process = Process::open(pid).expect("it runs");
        let objects = process.mapped_objects().expect("it has maps");
        let libc = objects.iter().find(|object| Path::new(&object.path) == file).expect("the C library");
        let inside = |range: &&profiler::target::MappedRange| {
            (range.file_offset..range.file_offset + (range.end - range.start)).contains(&offset)
        };
        let range = libc.ranges.iter().find(inside).expect("malloc is mapped");
        process.byte_at(range.start + (offset - range.file_offset)).expect("a byte")
    };
    assert_eq!((byte(helper.pid()), byte(child)), (0xcc, 0xcc), "fork copies the breakpoints");
    let offsets: Vec<u64> = plans.iter().flat_map(|plan| plan.file_offsets.clone()).collect();
    kernel.sweep_forks(helper.pid(), &file, &offsets).expect("it can be swept");
    assert_eq!(byte(helper.pid()), 0xcc, "the target keeps its own");
    assert_ne!(byte(child), 0xcc, "the child is as it was");
    drop(link);
    assert_ne!(byte(helper.pid()), 0xcc);
}

#[test]
fn the_end_of_a_process_is_told_although_its_main_thread_has_ended_before() {
    let _turn = turn();
    let program = if can_observe() { compiled("headless.c", &[]) } else { return };
    let Some(program) = program else { return };
    for multi in [true, false] {
        let mut kernel = load(multi, true);
        let mut reader = events(&mut kernel);
        let mut helper = Helper::start(&program, &[""]);
        let pid = helper.pid();
        let link = attach(&mut kernel, pid, 0);
        helper.work();
        let first: u64 = mallocs(&kernel, &link).iter().sum();
        assert!((1000..1010).contains(&first), "{first}");
        // From here on the kernel may lose sight of it at any time: at once with single probes, with a link when another
        // one on the same file goes. Nothing is to be made of what is counted.
        helper.work();
        drop(link);
        assert!(reader.next().is_none(), "it hasn't ended");
        helper.end();
        let events = events_until(&mut reader, |event| matches!(event, Event::Exit { .. }));
        assert!(matches!(events[..], [Event::Exit { pid: who, .. }] if who == pid), "{events:?}");
    }
}

#[test]
fn nothing_is_left_of_a_link_that_is_dropped() {
    let _turn = turn();
    let program = if can_observe() { compiled("chain.c", &[]) } else { return };
    let Some(program) = program else { return };
    let _alone = common::alone();
    for multi in [true, false] {
        let mut kernel = load(multi, false);
        let helpers: Vec<Helper> = (0..4).map(|_| Helper::start(&program, &["1", "0"])).collect();
        let (before, links_before) = (descriptors(), links());
        let attached: Vec<AllocLink> =
            (0..).zip(&helpers).map(|(slot, helper)| attach(&mut kernel, helper.pid(), slot)).collect();
        let ids: BTreeSet<_> = attached.iter().flat_map(|link| link.sites().to_vec()).collect();
        assert_eq!(ids.len(), 8, "every plan has a site of its own");
        let made: Vec<u32> = links().difference(&links_before).copied().collect();
        assert_eq!(made.len(), if kernel.placement() == Placement::Multi { 4 } else { 8 });
        detach_all(attached);
        // The link by which placing was tried may have gone meanwhile.
        assert!(descriptors() <= before, "{} and {before} before", descriptors());
        for id in made {
            assert!(!bpf_object_exists(BpfObject::Link, id).expect("an answer"), "link {id}");
        }
        let again = attach(&mut kernel, helpers[0].pid(), 0);
        assert!(again.sites().iter().all(|site| ids.contains(site)), "sites are used again");
        for site in again.sites() {
            assert_eq!(kernel.alloc_counts(*site).expect("counts"), [AllocCounts::default(); 2]);
        }
    }
}

#[test]
fn a_refused_place_is_named_and_nothing_stays() {
    let _turn = turn();
    let program = if can_observe() { compiled("chain.c", &[]) } else { return };
    let Some(program) = program else { return };
    let helper = Helper::start(&program, &["1", "0"]);
    for multi in [true, false] {
        let mut kernel = load(multi, false);
        let (file, mut plans) = malloc_and_free(helper.pid(), 0);
        let before = links();
        let size = std::fs::metadata(&file).expect("the C library").len();
        plans[1].file_offsets.push(size + 4096);
        let error = kernel.attach_alloc(helper.pid(), &file, &plans).err().expect("there is no such place");
        let KernelError::Probe { file_offset, .. } = &error else { panic!("{error}") };
        assert_eq!(*file_offset, size + 4096, "{error}");
        assert!(links().is_subset(&before), "{:?} stayed", links().difference(&before));
    }
}

#[test]
fn loading_takes_no_time_worth_telling() {
    let _turn = turn();
    if !can_observe() {
        return;
    }
    let _alone = common::alone();
    let began = Instant::now();
    let kernel = load(true, false);
    println!("loaded in {:?}, placement {}", began.elapsed(), kernel.placement().name());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_thread_that_ends_takes_its_hint_along_and_a_full_map_of_hints_is_no_error() {
    let _turn = turn();
    let program = if can_observe() { compiled("chain.c", &[]) } else { return };
    let Some(program) = program else { return };
    let mut kernel = load(true, true);
    let helper = Helper::start(&program, &["1", "0"]);
    let tid = helper.pid();
    assert_eq!(kernel.follow_thread(tid, 0).expect("it can be written"), Followed::New);
    assert!(kernel.hint(tid, ThreadState::Sleeping).expect("it can be written"));
    drop(helper);
    let gone = || kernel.thread(tid).expect("it can be read").is_none();
    assert!(within(LONG, gone), "its record is still there");
    // Ids that no thread can have (PID_MAX_LIMIT is 2^22): there is room for as many as the map has places.
    let ids = (1 << 23)..(1 << 23) + 20_000;
    let room = ids.take_while(|id| kernel.hint(*id, ThreadState::Sleeping).expect("full is no error"));
    assert_eq!(room.count(), 16_384);
}
