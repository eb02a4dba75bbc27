// A Go program that tells the truth about itself: it answers each line of its input with a line of JSON. Some commands
// let it stop itself between what it says and what it does next, so that others can read the very same state.
//
// Runs with every Go since 1.19, with and without cgo (tag `withc`), -race, and the code for profiles (tag `noprofile`).
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/given"
)

// What it says of itself.
type said struct {
	// As ReadMemStats had it; absent if it wasn't asked.
	MemStats *runtime.MemStats `json:"memstats,omitempty"`
	// The bits of GCCPUFraction: no reader of JSON can round them.
	Fraction uint64 `json:"fraction_bits"`
	// As runtime/metrics had it: all that are whole numbers.
	Metrics map[string]uint64 `json:"metrics,omitempty"`

	Goroutines int    `json:"goroutines"`
	Threads    int    `json:"threads"`
	Procs      int    `json:"gomaxprocs"`
	CPUs       int    `json:"cpus"`
	Percent    int    `json:"gc_percent"`
	Limit      int64  `json:"memory_limit"`
	Version    string `json:"version"`

	// debug.ReadGCStats.
	Cycles    int64    `json:"cycles"`
	PauseSum  int64    `json:"pause_sum"`
	LastGC    int64    `json:"last_gc"`
	Quantiles [5]int64 `json:"quantiles"`
}

var (
	stats     runtime.MemStats
	cycles    debug.GCStats
	samples   []metrics.Sample
	percent   int
	limit     int64
	goroutine int
	threads   int
	// Makes whoever reads a page of its memory wait without end; nil where it can't.
	hang func(page uintptr)
)

// Stops the process with all its threads, at once: no other code of ours runs between this and the call before.
func stopSelf() {
	pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	tid, _, _ := syscall.RawSyscall(syscall.SYS_GETTID, 0, 0, 0)
	syscall.RawSyscall(syscall.SYS_TGKILL, pid, tid, uintptr(syscall.SIGSTOP))
}

// What needs no memory and changes with nothing that follows.
func count() {
	goroutine = runtime.NumGoroutine()
	threads, _ = runtime.ThreadCreateProfile(nil)
	debug.ReadGCStats(&cycles)
}

func answer(withStats, withMetrics bool) said {
	out := said{
		Fraction:   math.Float64bits(stats.GCCPUFraction),
		Goroutines: goroutine, Threads: threads, Procs: runtime.GOMAXPROCS(0), CPUs: runtime.NumCPU(),
		Percent: percent, Limit: limit, Version: runtime.Version(),
		Cycles: cycles.NumGC, PauseSum: int64(cycles.PauseTotal),
	}
	if cycles.NumGC > 0 {
		out.LastGC = cycles.LastGC.UnixNano()
	}
	for i, quantile := range cycles.PauseQuantiles {
		out.Quantiles[i] = int64(quantile)
	}
	if withStats {
		out.MemStats = &stats
	}
	if withMetrics {
		out.Metrics = map[string]uint64{}
		for _, sample := range samples {
			if sample.Value.Kind() == metrics.KindUint64 {
				out.Metrics[sample.Name] = sample.Value.Uint64()
			}
		}
	}
	return out
}

// How often the world was stopped, as far as this version counts it; -1: it doesn't.
func stops() int64 {
	sum := int64(-1)
	for _, known := range metrics.All() {
		if !strings.HasPrefix(known.Name, "/sched/pauses/total/") {
			continue
		}
		sample := []metrics.Sample{{Name: known.Name}}
		metrics.Read(sample)
		if sum < 0 {
			sum = 0
		}
		for _, times := range sample[0].Value.Float64Histogram().Counts {
			sum += int64(times)
		}
	}
	return sum
}

func build() any {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	return info
}

// Measures ReadMemStats one by one: nanoseconds of each call.
func measure(times int) []int64 {
	took := make([]int64, times)
	for i := range took {
		began := time.Now()
		runtime.ReadMemStats(&stats)
		took[i] = int64(time.Since(began))
	}
	return took
}

func obey(command string, text string, number int) any {
	switch command {
	case "post": // What ReadMemStats says, then stop.
		count()
		runtime.ReadMemStats(&stats)
		stopSelf()
		return answer(true, false)
	case "pre": // Stop, then what ReadMemStats says: what the caches hold isn't in the books yet.
		stopSelf()
		runtime.ReadMemStats(&stats)
		count()
		return answer(true, false)
	case "rm": // What runtime/metrics says, then stop.
		count()
		metrics.Read(samples)
		stopSelf()
		return answer(false, true)
	case "live":
		count()
		runtime.ReadMemStats(&stats)
		return answer(true, false)
	case "stops":
		return map[string]int64{"stops": stops()}
	case "info":
		return map[string]any{"pid": os.Getpid(), "version": runtime.Version(), "build": build(), "given": given.Word()}
	case "work":
		work(number)
	case "gc":
		runtime.GC()
		for ; number > 1; number-- {
			runtime.GC()
		}
	case "free":
		forget()
		debug.FreeOSMemory()
	case "limit":
		debug.SetMemoryLimit(int64(number))
		limit = int64(number)
	case "nolimit":
		debug.SetMemoryLimit(math.MaxInt64)
		limit = math.MaxInt64
	case "gogc":
		debug.SetGCPercent(number)
		percent = number
	case "procs":
		runtime.GOMAXPROCS(number)
	case "gor":
		park(number)
	case "exitg":
		unpark()
	case "busy":
		busy(number)
	case "idle":
		idle()
	case "bench":
		return map[string][]int64{"took_ns": measure(number)}
	case "heapstop", "gorprof":
		return profile(command)
	case "hang":
		if hang != nil {
			hang(uintptr(number))
		}
		return map[string]string{"error": "it can't hang"}
	default:
		return map[string]string{"error": "what is " + text + "?"}
	}
	return map[string]string{}
}

func main() {
	// The thread that stops itself is always the same.
	runtime.LockOSThread()
	if rate, err := strconv.Atoi(os.Getenv("MEM_PROFILE_RATE")); err == nil {
		runtime.MemProfileRate = rate
	}
	percent = debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	limit = debug.SetMemoryLimit(-1)
	for _, known := range metrics.All() {
		if known.Kind == metrics.KindUint64 {
			samples = append(samples, metrics.Sample{Name: known.Name})
		}
	}
	cycles.PauseQuantiles = make([]time.Duration, 5)
	// Whatever these keep for themselves is allocated now.
	metrics.Read(samples)
	count()
	input := bufio.NewScanner(os.Stdin)
	output := bufio.NewWriterSize(os.Stdout, 1<<20)
	fmt.Fprintln(output, "ready")
	output.Flush()
	for input.Scan() {
		words := strings.Fields(input.Text())
		if len(words) == 0 {
			continue
		}
		number := 0
		if len(words) > 1 {
			number, _ = strconv.Atoi(words[1])
		}
		line, err := json.Marshal(obey(words[0], input.Text(), number))
		if err != nil {
			line = []byte(`{"error": "no JSON"}`)
		}
		output.Write(append(line, '\n'))
		output.Flush()
	}
}
