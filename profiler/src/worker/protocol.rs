//! What is said between the two processes. The answers come from a process that may have been taken over by what it read, so
//! they are checked like anything hostile.

use serde::{Deserialize, Serialize};

use super::{Analysed, Module, RawUnwound};
use crate::{binary::describe::Description, stack::Function};

/// What the client asks or tells. Only the last five are answered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// A file; its descriptor comes along, and a second one, of its debug file, if there is one.
    File { key: u32 },
    /// A file won't be asked for again.
    Forget { key: u32 },
    /// The code of a process.
    Space { id: u64, modules: Vec<Module> },
    /// A stack to unwind: instruction pointer, stack pointer, frame pointer; see `Worker::unwind`.
    Unwind { space: u64, registers: [u64; 3], returned: bool, stack: &'a [u8] },
    /// Places of a file to name.
    Symbolise { key: u32, offsets: Vec<u64> },
    /// Addresses to name by a perf map, whose descriptor comes along.
    PerfMap { addresses: Vec<u64> },
    /// A file to analyse; its descriptor comes along, and a second one, of its debug file, if there is one.
    Analyse { python: bool },
    /// A program to describe; its descriptor comes along.
    Describe,
}

/// What the process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is going to read this file for the first time. No answer yet: this is for the case that none comes.
    Reading { key: u32 },
    /// It doesn't know (any more) what the space is: tell it, and ask again.
    WhichSpace,
    /// To `Unwind`.
    Unwound(RawUnwound),
    /// To `Symbolise`: for every offset, the functions that are there, innermost first.
    Names(Vec<Vec<Function>>),
    /// To `PerfMap`: for every address, the name.
    Jitted(Vec<Option<String>>),
    /// To `Analyse`.
    Analysed(Box<Analysed>),
    /// To `Describe`.
    Described(Box<Description>),
    /// It gave up on this one.
    Failed,
}

/// As bytes.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Writing plain values into memory doesn't fail; were it so, nothing would be sent, and the other side wouldn't know it.
    postcard::to_stdvec(message).unwrap_or_default()
}

/// From bytes; `None` if they are no message, or more than one.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().and_then(|(message, rest)| rest.is_empty().then_some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        stack::End,
        worker::{Code, FileKey, RawFrame},
    };

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _request: Option<Request<'_>> = decode(&bytes);
            let _reply: Option<Reply> = decode(&bytes);
        }

        #[test]
        fn damaged_messages_do_no_harm(at in 0_usize..100, byte in any::<u8>(), offset in any::<u64>()) {
            let frame = RawFrame { code: Code::File(FileKey(7)), offset };
            let reply = Reply::Unwound(RawUnwound { frames: vec![frame; 9], end: End::Cut });
            let mut bytes = encode(&reply);
            prop_assert_eq!(decode::<Reply>(&bytes), Some(reply));
            if let Some(place) = bytes.get_mut(at) { *place = byte; }
            let _reply: Option<Reply> = decode(&bytes);
            bytes.truncate(at.min(bytes.len() - 1));
            prop_assert_eq!(decode::<Reply>(&bytes), None);
        }

        #[test]
        fn stacks_go_through_unchanged(stack in prop::collection::vec(any::<u8>(), 0..300)) {
            let request = Request::Unwind { space: 1, registers: [1, 2, 3], returned: true, stack: &stack };
            let bytes = encode(&request);
            prop_assert_eq!(decode::<Request<'_>>(&bytes), Some(request));
        }
    }
}
