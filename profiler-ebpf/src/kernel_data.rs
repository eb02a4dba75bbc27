//! The only file that reads kernel structures.
//!
//! Offsets inside `task_struct` differ between kernels. The user side finds them in the running kernel's BTF and sets
//! them before loading, where the verifier sees them as constants: a read costs one load, as in the kernel itself.

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    programs::BtfTracePointContext,
};
use profiler_common::{sample::Registers, sched::ThreadState};

#[unsafe(no_mangle)]
static TASK_PID: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TASK_TGID: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TASK_STATE: Global<u64> = Global::new(0);
/// Byte that holds the bit `in_iowait`, and the bit's mask within it.
#[unsafe(no_mangle)]
static TASK_IOWAIT_BYTE: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static TASK_IOWAIT_MASK: Global<u8> = Global::new(0);
/// `thread_info.status` (x86): tells whether the thread is inside a 32-bit system call.
#[unsafe(no_mangle)]
static TASK_COMPAT_STATUS: Global<u64> = Global::new(0);
/// `flags` of a task, for its bit `PF_KTHREAD`.
#[unsafe(no_mangle)]
static TASK_FLAGS: Global<u64> = Global::new(0);
/// `signal` of a task, which its whole thread group shares, and therein `live`: how many of its threads have not ended.
#[unsafe(no_mangle)]
static TASK_SIGNAL: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static SIGNAL_LIVE: Global<u64> = Global::new(0);
/// `exit_code` of a task that ends.
#[unsafe(no_mangle)]
static TASK_EXIT_CODE: Global<u64> = Global::new(0);
/// Whether the tracepoint `sched_process_exit` tells that the last thread ends (Linux 6.16).
#[unsafe(no_mangle)]
static EXIT_TELLS_GROUP_DEAD: Global<u8> = Global::new(0);
/// `task_struct.mm`: the process's memory.
#[unsafe(no_mangle)]
static TASK_MM: Global<u64> = Global::new(0);
/// `mm_struct.brk`: the program break.
#[unsafe(no_mangle)]
static MM_BRK: Global<u64> = Global::new(0);
/// `task_struct.pagefault_disabled`: above zero while the kernel would rather fail than handle a fault.
#[unsafe(no_mangle)]
static TASK_PAGEFAULT_DISABLED: Global<u64> = Global::new(0);
/// Whether the tracepoint `mark_victim` tells the task (Linux 6.9), or its id only.
#[unsafe(no_mangle)]
static MARK_VICTIM_TELLS_TASK: Global<u8> = Global::new(0);

/// A kernel task. The pointer comes from a tracepoint's argument, so the verifier checks every access through it.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// The `n`th argument of the tracepoint, which must be a `task_struct`.
    #[inline(always)]
    pub fn argument(ctx: &BtfTracePointContext, n: usize) -> Self {
        Self(ctx.arg::<*const u8>(n))
    }

    /// The thread that the program runs in.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper takes nothing and returns the current task, which lives as long as the program runs.
        Self(unsafe { bpf_get_current_task_btf() } as *const u8)
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: the verifier refuses the program unless the offset is a constant inside task_struct.
        unsafe { core::ptr::read_volatile(self.0.add(offset as usize).cast::<T>()) }
    }

    /// Thread id in the initial pid namespace (the kernel calls it pid).
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.read(TASK_PID.load())
    }

    /// Process id in the initial pid namespace (the kernel calls it tgid).
    #[inline(always)]
    pub fn pid(self) -> u32 {
        self.read(TASK_TGID.load())
    }

    /// How the task has ended, as `wait` tells it; for `sched_process_exit` only (kernel/exit.c, do_exit, sets it before).
    #[inline(always)]
    pub fn exit_code(self) -> u32 {
        self.read(TASK_EXIT_CODE.load())
    }

    /// Whether it is the first thread of its process.
    #[inline(always)]
    pub fn is_main_thread(self) -> bool {
        self.tid() == self.pid()
    }

    /// Whether it has no user memory of its own and never will.
    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        self.read::<u32>(TASK_FLAGS.load()) & PF_KTHREAD != 0
    }

    /// Whether the task still counts as runnable, whatever it was about to do.
    #[inline(always)]
    fn is_running(self) -> bool {
        self.read::<u32>(TASK_STATE.load()) == TASK_RUNNING
    }

    #[inline(always)]
    fn in_iowait(self) -> bool {
        self.read::<u8>(TASK_IOWAIT_BYTE.load()) & TASK_IOWAIT_MASK.load() != 0
    }

    /// A register of the task, which must be the current one, as it was saved when it entered the kernel. `at` is a
    /// constant inside `pt_regs`.
    #[inline(always)]
    fn register(self, at: usize) -> u64 {
        // SAFETY: the helper takes a task and returns its saved user registers.
        let regs = unsafe { bpf_task_pt_regs(self.0.cast_mut().cast()) } as *const u8;
        // SAFETY: the verifier knows the type behind the pointer and checks the offset.
        unsafe { core::ptr::read_volatile(regs.add(at).cast::<u64>()) }
    }

    /// The `n`th argument of the 64-bit system call that the task, which must be the current one, is in. Still there
    /// when the call ends: only the result's register is written (arch/x86/entry/common.c).
    #[inline(always)]
    pub fn argument_of_call(self, n: usize) -> u64 {
        // rdi, rsi, rdx, r10: the order of the system call convention, at their places in arch/x86/include/asm/ptrace.h.
        self.register([14 * 8, 13 * 8, 12 * 8, 7 * 8][n])
    }

    /// What unwinding needs of the user registers of the task, which must be the current one, as they were saved when it
    /// entered the kernel. Places in arch/x86/include/asm/ptrace.h.
    #[inline(always)]
    pub fn registers(self) -> Registers {
        Registers {
            ip: self.register(16 * 8),
            sp: self.register(19 * 8),
            bp: self.register(4 * 8),
            rest: [
                self.register(5 * 8),
                self.register(3 * 8),
                self.register(2 * 8),
                self.register(8),
                self.register(0),
            ],
        }
    }

    /// Whether a page fault of the task, which must be the current one, fails at present instead of being handled.
    #[inline(always)]
    pub fn fails_at_faults(self) -> bool {
        self.read::<u32>(TASK_PAGEFAULT_DISABLED.load()) != 0
    }

    /// Where the program break of the task's process is; `None` for a task without memory of its own.
    #[inline(always)]
    pub fn program_break(self) -> Option<u64> {
        let mm = self.read::<*const u8>(TASK_MM.load());
        if mm.is_null() {
            return None;
        }
        // SAFETY: the verifier knows the type behind the pointer and lets the read fail as zero should the memory be gone.
        Some(unsafe { core::ptr::read_volatile(mm.add(MM_BRK.load() as usize).cast::<u64>()) })
    }

    /// Whether the task, which must be the current one, is inside a futex system call.
    #[inline(always)]
    fn in_futex(self) -> bool {
        let call = self.register(ORIG_AX);
        if self.read::<u32>(TASK_COMPAT_STATUS.load()) & TS_COMPAT != 0 {
            // arch/x86/entry/syscalls/syscall_32.tbl: futex, futex_time64, futex_waitv, futex_wait, futex_requeue
            matches!(call, 240 | 422 | 449 | 455 | 456)
        } else {
            // arch/x86/entry/syscalls/syscall_64.tbl: futex, futex_waitv, futex_wait, futex_requeue
            matches!(call, 202 | 449 | 455 | 456)
        }
    }
}

/// include/linux/sched.h
const TASK_RUNNING: u32 = 0x0000;
const TASK_INTERRUPTIBLE: u32 = 0x0001;
const TASK_UNINTERRUPTIBLE: u32 = 0x0002;
const TASK_STOPPED: u32 = 0x0004;
const TASK_TRACED: u32 = 0x0008;
const TASK_DEAD: u32 = 0x0080;
const TASK_NOLOAD: u32 = 0x0400;
const TASK_FROZEN: u32 = 0x8000;
const PF_KTHREAD: u32 = 0x0020_0000;
/// arch/x86/include/asm/thread_info.h
const TS_COMPAT: u32 = 0x0002;
/// arch/x86/include/uapi/asm/ptrace.h: the system call's number, or -1 outside of one.
const ORIG_AX: usize = 15 * 8;

/// Whether the thread that ends is the last one of its process; for `sched_process_exit` only.
///
/// The kernel counts `live` down before it passes the tracepoint (kernel/exit.c, do_exit). Where two last threads end at the
/// same time, an older kernel shows zero to both: then both seem to be the last.
#[inline(always)]
pub fn last_thread_ends(ctx: &BtfTracePointContext, task: Task) -> bool {
    if EXIT_TELLS_GROUP_DEAD.load() != 0 {
        return ctx.arg::<u64>(1) & 1 != 0;
    }
    // A pointer that the verifier knows the type of, like the task itself.
    let signal = Task(task.read::<*const u8>(TASK_SIGNAL.load()));
    signal.read::<u32>(SIGNAL_LIVE.load()) == 0
}

/// Process and thread that have been chosen to be killed for memory; for `mark_victim` only. Older kernels tell the thread
/// alone, which nearly always is the main one.
#[inline(always)]
pub fn victim(ctx: &BtfTracePointContext) -> (u32, u32) {
    if MARK_VICTIM_TELLS_TASK.load() != 0 {
        let task = Task::argument(ctx, 0);
        return (task.pid(), task.tid());
    }
    let tid = ctx.arg::<u64>(0) as u32;
    (tid, tid)
}

/// What a thread that leaves the CPU goes to.
pub enum Leaving {
    /// It ends; it will never run again.
    Dead,
    /// It goes on as this.
    To(ThreadState),
}

/// Classifies the task that `sched_switch` takes off the CPU.
///
/// `prev_state` is the tracepoint's argument (kernels since 5.18). A task with a pending signal stays runnable although
/// older kernels still pass the state it had wished for (kernel/sched/core.c, `__schedule`); its own state says so.
#[inline(always)]
pub fn leaving(prev: Task, preempted: bool, prev_state: u32) -> Leaving {
    if prev_state & TASK_DEAD != 0 {
        return Leaving::Dead;
    }
    Leaving::To(if preempted || prev_state == TASK_RUNNING || prev.is_running() {
        ThreadState::Runnable
    } else if prev_state & (TASK_STOPPED | TASK_TRACED | TASK_FROZEN) != 0 {
        ThreadState::Stopped
    } else if prev_state & TASK_UNINTERRUPTIBLE != 0 && prev_state & TASK_NOLOAD == 0 {
        if prev.in_iowait() { ThreadState::Disk } else { ThreadState::Uninterruptible }
    } else if prev_state & TASK_INTERRUPTIBLE != 0 && prev.in_futex() {
        ThreadState::Futex
    } else {
        ThreadState::Sleeping
    })
}
