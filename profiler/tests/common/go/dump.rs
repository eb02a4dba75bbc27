//! The dump of goroutines that a Go program writes of itself (`pprof.Lookup("goroutine").WriteTo(w, 2)`, which is what a panic
//! prints), held against goroutines that were read from outside.

use std::collections::BTreeMap;

use super::Tally;

/// A place in code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub name: String,
    /// `file:line`.
    pub place: String,
}

/// A goroutine, whoever tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub id: u64,
    /// `chan receive`, `running`.
    pub state: String,
    pub frames: Vec<Frame>,
    /// The function that made it, and the goroutine that ran that, where that is told.
    pub made_by: Option<(String, Option<u64>)>,
}

/// Reads a dump.
pub fn parse(text: &str) -> Vec<Told> {
    text.split("\n\n").filter_map(one).collect()
}

fn one(block: &str) -> Option<Told> {
    let mut lines = block.trim_matches('\n').lines();
    let head = lines.next()?.strip_prefix("goroutine ")?;
    let (id, rest) = head.split_once(' ')?;
    let state = rest.trim_start_matches('[').split(['[', ']']).next()?.split(", ").next()?;
    let mut told = Told { id: id.parse().ok()?, state: state.to_owned(), ..Told::default() };
    while let (Some(call), Some(place)) = (lines.next(), lines.next()) {
        if let Some(maker) = call.strip_prefix("created by ") {
            let (name, parent) = match maker.split_once(" in goroutine ") {
                Some((name, id)) => (name, id.parse().ok()),
                None => (maker, None),
            };
            told.made_by = Some((name.to_owned(), parent));
        } else {
            // Names have brackets as well: `main.(*waiter).down(0x0?)`.
            let name = call.rfind('(').map_or(call, |end| &call[..end]).to_owned();
            let place = place.trim().split(" +0x").next().unwrap_or_default().to_owned();
            told.frames.push(Frame { name, place });
        }
    }
    Some(told)
}

/// Whether a frame is one of the runtime's, of which a dump shows some and hides some.
fn of_the_runtime(frame: &Frame) -> bool {
    ["runtime.", "internal/runtime/"].iter().any(|prefix| frame.name.starts_with(prefix))
        || frame.name == "panic"
}

fn users(told: &Told) -> Vec<Frame> {
    told.frames.iter().filter(|frame| !of_the_runtime(frame)).cloned().collect()
}

/// What came out of two lists of the same moment.
#[derive(Debug, Default)]
pub struct Compared {
    /// Ids, states, and who made them.
    pub goroutines: Tally,
    /// Frames of those that wait: function, file and line, inlined ones too; without the runtime's own.
    pub stacks: Tally,
}

/// Holds our list (without goroutines of the system) against the program's own.
pub fn compare(ours: &[Told], theirs: &[Told]) -> Compared {
    let mut compared = Compared::default();
    let by_id =
        |list: &[Told]| -> BTreeMap<u64, Told> { list.iter().map(|told| (told.id, told.clone())).collect() };
    let (ours, theirs) = (by_id(ours), by_id(theirs));
    for id in ours.keys().filter(|id| !theirs.contains_key(id)) {
        compared.goroutines.fail(format!("goroutine {id} isn't in the program's dump: {:?}", ours[id]));
    }
    for (id, told) in &theirs {
        let Some(seen) = ours.get(id) else {
            compared.goroutines.fail(format!("goroutine {id} ({}) wasn't found", told.state));
            continue;
        };
        let made_by = |told: &Told| told.made_by.clone().map(|(name, parent)| (name, parent.unwrap_or(0)));
        let mut ours_made = made_by(seen);
        if told.id == 1 && told.made_by.is_none() {
            // The runtime made it, of which a dump doesn't speak.
            ours_made = None;
        } else if told.made_by.as_ref().is_some_and(|(_, parent)| parent.is_none()) {
            // This version doesn't say who the parent was.
            ours_made = ours_made.map(|(name, _)| (name, 0));
        }
        let same = (&seen.state, ours_made);
        compared.goroutines.compare(&format!("goroutine {id}"), &same, &(&told.state, made_by(told)));
        // One that runs has no stack that could be read; its own dump shows how it makes the dump.
        if told.state != "running" {
            let (ours, theirs) = (users(seen), users(told));
            // The first frame that differs says enough.
            let at =
                (0..ours.len().max(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at)).unwrap_or(0);
            let what = format!("frame {at} of {} of {id} ({})", theirs.len(), told.state);
            compared.stacks.compare(&what, &ours.get(at), &theirs.get(at));
        }
    }
    compared
}

#[test]
fn a_dump_is_read_as_it_is_written() {
    let text = "goroutine 1 [running, locked to thread]:\nmain.main()\n\t/a/b.go:7 +0x1d\n\n\
        goroutine 21 [sync.Mutex.Lock, 3 minutes]:\nsync.(*Mutex).Lock(...)\n\t/s/m.go:46\nmain.generic[...]({0x5, 0x4}, 0x0)\n\t/a/b.go:54 +0x28\n\
        created by main.park in goroutine 1\n\t/a/p.go:156 +0x7f\n";
    let [first, second] = &parse(text)[..] else { panic!("two goroutines") };
    assert_eq!((first.id, first.state.as_str(), &first.made_by), (1, "running", &None));
    assert_eq!(first.frames, [Frame { name: "main.main".into(), place: "/a/b.go:7".into() }]);
    assert_eq!((second.id, second.state.as_str()), (21, "sync.Mutex.Lock"));
    assert_eq!(second.made_by, Some(("main.park".to_owned(), Some(1))));
    let names: Vec<&str> = second.frames.iter().map(|frame| frame.name.as_str()).collect();
    assert_eq!(names, ["sync.(*Mutex).Lock", "main.generic[...]"]);
    assert_eq!(second.frames[0].place, "/s/m.go:46");
}
