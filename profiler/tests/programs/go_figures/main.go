// Tells what its own runtime says, by the names of the profiler's figures, and stops itself in the same moment, so that somebody
// else can read the same state. Commands come on stdin, one a line; a line of JSON or "ok" is the answer.
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
	"sync/atomic"
	"syscall"
	"time"
)

type figures map[string]interface{}

var (
	stats   runtime.MemStats
	samples []metrics.Sample
	kept    []interface{}
	busy    int32
	sink    interface{}
)

func stop() {
	syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP))
}

type node struct{ left, right *node }

func tree(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{tree(depth - 1), tree(depth - 1)}
}

func work(rounds int) {
	for i := 0; i < rounds; i++ {
		block := make([]byte, 16+(i*37)%40000)
		tiny := new(uint32)
		*tiny = uint32(i)
		sink = tiny
		if i%7 == 0 {
			kept = append(kept, block, tiny)
		}
		if i%50 == 0 {
			kept = append(kept, tree(5))
		}
	}
	if len(kept) > 3000 {
		kept = append([]interface{}(nil), kept[len(kept)/2:]...)
	}
}

func churn(size int) {
	var blocks [64][]byte
	for i := 0; atomic.LoadInt32(&busy) == 1; i++ {
		n := size
		if n == 0 {
			n = 100 + i%5000
		}
		blocks[i%64] = make([]byte, n)
	}
}

// What ReadMemStats doesn't have, and what both ways have in common.
func common(goroutines, threads, maxprocs int, stats *runtime.MemStats) figures {
	pauses := [][2]uint64{}
	remembered := int(stats.NumGC)
	if remembered > len(stats.PauseNs) {
		remembered = len(stats.PauseNs)
	}
	for i := remembered; i > 0; i-- {
		place := (int(stats.NumGC) - i) % len(stats.PauseNs)
		pauses = append(pauses, [2]uint64{stats.PauseNs[place], stats.PauseEnd[place]})
	}
	return figures{
		"goroutines": goroutines, "threads": threads, "gomaxprocs": maxprocs, "cpus": runtime.NumCPU(),
		"last_gc": stats.LastGC, "pause_total_ns": stats.PauseTotalNs, "num_gc": stats.NumGC,
		"num_forced_gc": stats.NumForcedGC, "gc_cpu_fraction": math.Float64bits(stats.GCCPUFraction), "pauses": pauses,
	}
}

func byMemStats(into figures, s *runtime.MemStats) figures {
	for name, value := range map[string]uint64{
		"alloc": s.Alloc, "total_alloc": s.TotalAlloc, "sys": s.Sys, "mallocs": s.Mallocs, "frees": s.Frees,
		"heap_sys": s.HeapSys, "heap_idle": s.HeapIdle, "heap_inuse": s.HeapInuse, "heap_released": s.HeapReleased,
		"heap_objects": s.HeapObjects, "stack_inuse": s.StackInuse, "stack_sys": s.StackSys,
		"mspan_inuse": s.MSpanInuse, "mspan_sys": s.MSpanSys, "mcache_inuse": s.MCacheInuse,
		"mcache_sys": s.MCacheSys, "buck_hash_sys": s.BuckHashSys, "gc_sys": s.GCSys, "other_sys": s.OtherSys,
		"next_gc": s.NextGC,
	} {
		into[name] = value
	}
	return into
}

func byMetrics(into figures) figures {
	of := map[string]uint64{}
	for _, sample := range samples {
		if sample.Value.Kind() == metrics.KindUint64 {
			of[sample.Name] = sample.Value.Uint64()
		}
	}
	heap, meta := "/memory/classes/heap/", "/memory/classes/metadata/"
	tiny := of["/gc/heap/tiny/allocs:objects"]
	inuse := of[heap+"objects:bytes"] + of[heap+"unused:bytes"]
	idle := of[heap+"free:bytes"] + of[heap+"released:bytes"]
	for name, value := range map[string]uint64{
		"alloc": of[heap+"objects:bytes"], "total_alloc": of["/gc/heap/allocs:bytes"],
		"sys": of["/memory/classes/total:bytes"], "mallocs": of["/gc/heap/allocs:objects"] + tiny,
		"frees": of["/gc/heap/frees:objects"] + tiny, "heap_sys": inuse + idle, "heap_idle": idle, "heap_inuse": inuse,
		"heap_released": of[heap+"released:bytes"], "heap_objects": of["/gc/heap/objects:objects"],
		"stack_inuse": of[heap+"stacks:bytes"],
		"stack_sys":   of[heap+"stacks:bytes"] + of["/memory/classes/os-stacks:bytes"],
		"mspan_inuse": of[meta+"mspan/inuse:bytes"], "mspan_sys": of[meta+"mspan/inuse:bytes"] + of[meta+"mspan/free:bytes"],
		"mcache_inuse": of[meta+"mcache/inuse:bytes"], "mcache_sys": of[meta+"mcache/inuse:bytes"] + of[meta+"mcache/free:bytes"],
		"buck_hash_sys": of["/memory/classes/profiling/buckets:bytes"], "gc_sys": of[meta+"other:bytes"],
		"other_sys": of["/memory/classes/other:bytes"], "next_gc": of["/gc/heap/goal:bytes"],
	} {
		into[name] = value
	}
	return into
}

func main() {
	runtime.LockOSThread()
	for _, description := range metrics.All() {
		if description.Kind == metrics.KindUint64 {
			samples = append(samples, metrics.Sample{Name: description.Name})
		}
	}
	metrics.Read(samples)
	lines := bufio.NewScanner(os.Stdin)
	limit, percent := int64(0), 100
	var answer figures
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		number := 0
		if len(words) > 1 {
			number, _ = strconv.Atoi(words[1])
		}
		answer = nil
		switch words[0] {
		case "memstats":
			goroutines := runtime.NumGoroutine()
			threads, _ := runtime.ThreadCreateProfile(nil)
			maxprocs := runtime.GOMAXPROCS(0)
			runtime.ReadMemStats(&stats)
			stop()
			answer = byMemStats(common(goroutines, threads, maxprocs, &stats), &stats)
		case "memstats-after":
			stop()
			runtime.ReadMemStats(&stats)
			goroutines := runtime.NumGoroutine()
			threads, _ := runtime.ThreadCreateProfile(nil)
			answer = byMemStats(common(goroutines, threads, runtime.GOMAXPROCS(0), &stats), &stats)
		case "metrics":
			goroutines := runtime.NumGoroutine()
			threads, _ := runtime.ThreadCreateProfile(nil)
			maxprocs := runtime.GOMAXPROCS(0)
			metrics.Read(samples)
			stop()
			// Nothing of these changes without a collection.
			runtime.ReadMemStats(&stats)
			answer = byMetrics(common(goroutines, threads, maxprocs, &stats))
		case "live":
			runtime.ReadMemStats(&stats)
			answer = byMemStats(common(runtime.NumGoroutine(), 0, runtime.GOMAXPROCS(0), &stats), &stats)
		case "work":
			work(number)
		case "gc":
			for ; number > 0; number-- {
				runtime.GC()
			}
		case "limit":
			limit = int64(number)
			debug.SetMemoryLimit(limit)
		case "percent":
			percent = number
			debug.SetGCPercent(percent)
		case "procs":
			runtime.GOMAXPROCS(number)
		case "goroutines":
			for ; number > 0; number-- {
				go func() { select {} }()
			}
			time.Sleep(10 * time.Millisecond)
		case "busy":
			atomic.StoreInt32(&busy, 1)
			size := 0
			if len(words) > 2 {
				size, _ = strconv.Atoi(words[2])
			}
			for ; number > 0; number-- {
				go churn(size)
			}
		case "idle":
			atomic.StoreInt32(&busy, 0)
			time.Sleep(50 * time.Millisecond)
		}
		if answer == nil {
			fmt.Println("ok")
			continue
		}
		answer["gc_percent"] = percent
		if limit == 0 {
			answer["memory_limit"] = int64(1<<63 - 1)
		} else {
			answer["memory_limit"] = limit
		}
		text, _ := json.Marshal(answer)
		fmt.Println(string(text))
	}
}
