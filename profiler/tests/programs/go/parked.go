package main

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// A way to wait; it ends when the channel is closed.
type kind struct {
	name string
	wait func(end <-chan struct{})
}

var (
	end    = make(chan struct{})
	ended  sync.WaitGroup
	locked sync.Mutex
	ranks  sync.RWMutex
)

type waiter struct{}

// Deep, and by a method.
//
//go:noinline
func (w *waiter) down(depth int, end <-chan struct{}) int {
	if depth == 0 {
		<-end
		return 0
	}
	return w.down(depth-1, end) + 1
}

// Inlined into the one that calls it.
func receive(end <-chan struct{}) { <-end }

//go:noinline
func viaInlined(end <-chan struct{}) { receive(end) }

// A frame larger than the first stack of a goroutine: it was moved.
//
//go:noinline
func large(end <-chan struct{}) byte {
	var room [40000]byte
	room[len(os.Args)] = 1
	<-end
	return room[len(os.Args)]
}

func generic[T any](value T, end <-chan struct{}) T {
	<-end
	return value
}

var kinds = []kind{
	{"receive", func(end <-chan struct{}) { <-end }},
	{"sleep", func(end <-chan struct{}) {
		for {
			select {
			case <-end:
				return
			default:
				time.Sleep(2 * time.Second)
			}
		}
	}},
	{"select", func(end <-chan struct{}) {
		never := make(chan int)
		select {
		case <-end:
		case never <- 1:
		}
	}},
	{"deep", func(end <-chan struct{}) { (&waiter{}).down(70, end) }},
	{"inlined", viaInlined},
	{"large", func(end <-chan struct{}) { large(end) }},
	{"generic", func(end <-chan struct{}) { generic("word", end); generic(1, end) }},
	{"mutex", func(end <-chan struct{}) { locked.Lock(); locked.Unlock() }},
	{"rwmutex", func(end <-chan struct{}) { ranks.RLock(); ranks.RUnlock() }},
	{"condition", func(end <-chan struct{}) {
		var own sync.Mutex
		condition := sync.NewCond(&own)
		done := false
		go func() {
			<-end
			own.Lock()
			done = true
			own.Unlock()
			condition.Signal()
		}()
		own.Lock()
		for !done {
			condition.Wait()
		}
		own.Unlock()
	}},
	{"group", func(end <-chan struct{}) {
		var group sync.WaitGroup
		group.Add(1)
		go func() {
			<-end
			group.Done()
		}()
		group.Wait()
	}},
	{"poll", func(end <-chan struct{}) {
		reading, writing, err := os.Pipe()
		if err != nil {
			return
		}
		go func() {
			<-end
			writing.Close()
		}()
		reading.Read(make([]byte, 1))
		reading.Close()
	}},
	{"syscall", func(end <-chan struct{}) {
		var ends [2]int
		if syscall.Pipe(ends[:]) != nil {
			return
		}
		go func() {
			<-end
			syscall.Close(ends[1])
		}()
		syscall.Read(ends[0], make([]byte, 1))
		syscall.Close(ends[0])
	}},
	{"thread", func(end <-chan struct{}) {
		runtime.LockOSThread()
		<-end
		runtime.UnlockOSThread()
	}},
	{"deferred", func(end <-chan struct{}) {
		defer func() {
			if recover() != nil {
				<-end
			}
		}()
		panic("on purpose")
	}},
}

// So many goroutines that wait, of all kinds in turn; returns when they do.
func park(count int) {
	if count > 0 && locked.TryLock() {
		ranks.Lock()
	}
	for i := 0; i < count; i++ {
		wait := kinds[i%len(kinds)].wait
		ended.Add(1)
		go func(end <-chan struct{}) {
			defer ended.Done()
			wait(end)
		}(end)
	}
	time.Sleep(50 * time.Millisecond)
}

func unpark() {
	close(end)
	end = make(chan struct{})
	if !locked.TryLock() {
		ranks.Unlock()
	}
	locked.Unlock()
	ended.Wait()
	time.Sleep(20 * time.Millisecond)
}
