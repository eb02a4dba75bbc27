// Says what it knows of its goroutines and its heap profile, in two files (the arguments), and stops itself at once: whoever
// reads it from outside sees the same state.
package main

import (
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"sync"
	"syscall"
	"time"
)

var (
	never = make(chan struct{})
	kept  [][]byte
	mutex sync.Mutex
)

func receive() { <-never }

//go:noinline
func deep(depth int) {
	if depth == 0 {
		select {}
	}
	deep(depth - 1)
}

func readPipe(from int) {
	var one [1]byte
	syscall.Read(from, one[:])
}

func keep(size int) { kept = append(kept, make([]byte, size)) }

func main() {
	runtime.LockOSThread()
	runtime.MemProfileRate = 4096
	count, _ := strconv.Atoi(os.Args[3])
	for i := 0; i < count; i++ {
		go receive()
	}
	for i := 0; i < 100; i++ {
		go deep(i)
		go time.Sleep(time.Hour)
		go func() { mutex.Lock() }()
	}
	var pipe [2]int
	syscall.Pipe(pipe[:])
	go readPipe(pipe[0])
	for i := 0; i < 3000; i++ {
		keep(16 + i*7%9000)
		if i%1000 == 999 {
			kept = kept[len(kept)/2:]
			runtime.GC()
		}
	}
	time.Sleep(50 * time.Millisecond)
	goroutines, _ := os.Create(os.Args[1])
	pprof.Lookup("goroutine").WriteTo(goroutines, 2)
	heap, _ := os.Create(os.Args[2])
	pprof.Lookup("heap").WriteTo(heap, 1)
	syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP))
}
