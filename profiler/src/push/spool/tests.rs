//! A spool on a simulated disk that crashes, and on a real one.

mod ages;
mod crashes;
mod every_crash;
mod real;
mod simulated;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment by its second.
fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

/// So many lines that no other batch has.
fn lines(number: usize, count: u32) -> String {
    (0..count)
        .map(|line| format!("m,batch={number} line={line}i,x={}i 1\n", number.wrapping_mul(2_654_435_761)))
        .collect()
}

/// What is logged on this thread meanwhile.
pub fn log_of(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    // Of one subscriber alone tracing believes that every thread has it, and asks a thread that has none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber, act);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
