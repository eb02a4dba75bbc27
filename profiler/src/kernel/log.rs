//! The kernel side's own debug lines, at `--log-level trace` only. Without it the verifier removes them.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

/// Hands the kernel side's lines on to the log, for as long as [`KernelLog::run`] runs.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    /// Takes the log's ring buffer; `None` (with a warning) if there is something wrong with it. Its loss harms nobody.
    pub(super) fn take(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(ebpf)
            .map(Self)
            .inspect_err(|error| tracing::warn!("no lines from the kernel side: {error}"))
            .ok()
    }

    /// Forwards lines until the runtime ends.
    pub async fn run(self) {
        // SAFETY: the logger owns its descriptor and hands out the same one as long as it lives.
        let mut ready = match unsafe { AsyncFd::register(self.0) } {
            Ok(ready) => ready,
            Err(error) => return tracing::warn!("no lines from the kernel side: {error}"),
        };
        while let Ok(mut guard) = ready.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
