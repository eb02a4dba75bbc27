//! Names for the places of stacks, asked of the worker and kept.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::files::Files;
use crate::{
    stack::{Frame, Function, Place, RawStack, Stack},
    worker::{FileKey, Worker},
};

/// Places whose names are kept; about 200 bytes each.
const KEPT: usize = 50_000;
/// Named stacks that are kept.
const KEPT_STACKS: usize = 4_000;

/// Names that were asked for.
#[derive(Default)]
pub struct Names {
    places: HashMap<Place, (Arc<str>, Arc<[Function]>)>,
    stacks: HashMap<RawStack, Arc<Stack>>,
}

impl Names {
    /// The stack with its names. After `until`, only with those that are known: the rest comes another time.
    pub fn of(&mut self, worker: &mut Worker, files: &Files, raw: &RawStack, until: Instant) -> Arc<Stack> {
        if let Some(stack) = self.stacks.get(raw) {
            return Arc::clone(stack);
        }
        if self.places.len() > KEPT {
            self.places.clear();
        }
        if self.stacks.len() > KEPT_STACKS {
            self.stacks.clear();
        }
        // All unknown places of a file in one question.
        let mut unknown: HashMap<(FileKey, Arc<str>), Vec<&Place>> = HashMap::new();
        let mut complete = true;
        for place in raw.places.iter().filter(|place| !place.build.starts_with('[')) {
            if self.places.contains_key(place) {
                continue;
            }
            // A file that was closed tells no names any more.
            if let Some((key, name)) = files.of_build(&place.build) {
                unknown.entry((key, Arc::clone(name))).or_default().push(place);
            }
        }
        for ((key, name), places) in unknown {
            if Instant::now() >= until {
                complete = false;
                break;
            }
            let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
            let names = worker.symbolise(key, &offsets);
            for (place, functions) in places.into_iter().zip(names) {
                self.places.insert(place.clone(), (Arc::clone(&name), functions.into()));
            }
        }
        let stack = Arc::new(Stack {
            frames: raw.places.iter().map(|place| self.frame(place)).collect(),
            end: raw.end,
        });
        if complete {
            self.stacks.insert(raw.clone(), Arc::clone(&stack));
        }
        stack
    }

    fn frame(&self, place: &Place) -> Frame {
        let known = self.places.get(place);
        Frame {
            place: place.clone(),
            object: known.map_or_else(|| Arc::from(""), |(name, _)| Arc::clone(name)),
            functions: known.map_or_else(Vec::new, |(_, functions)| functions.to_vec()),
        }
    }
}
