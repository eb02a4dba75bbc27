package main

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
)

var (
	blocks [][]byte
	trees  []*node
	sink   any
	churn  int32
)

type node struct {
	left, right *node
	values      [3]uint64
}

type tiny struct{ value uint32 }

//go:noinline
func tree(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{left: tree(depth - 1), right: tree(depth - 1)}
}

// Inlined into its caller: the profile has to say so.
func small(size int) []byte { return make([]byte, size) }

// A closure and a generic function in the profile's stacks.
func mapped[T any](count int, make func(int) T) []T {
	var all []T
	for i := 0; i < count; i++ {
		all = append(all, make(i))
	}
	return all
}

// Objects of all kinds: tiny, small of many classes, large, with pointers and without; some are kept.
func work(rounds int) {
	for i := 0; i < rounds; i++ {
		block := small(16 + (i*37)%40000)
		if i%7 == 0 {
			blocks = append(blocks, block)
		}
		sink = &tiny{uint32(i)}
		if i%50 == 0 {
			trees = append(trees, tree(5))
			sink = mapped(8, func(n int) *node { return &node{values: [3]uint64{uint64(n)}} })
		}
		if i%1000 == 999 {
			sink = make([]byte, 1<<20)
		}
		names := make(map[string]int)
		names[strconv.Itoa(i)] = i
		sink = names
	}
	if len(blocks) > 3000 {
		blocks = append([][]byte(nil), blocks[2000:]...)
	}
	if len(trees) > 400 {
		trees = append([]*node(nil), trees[200:]...)
	}
}

func forget() { blocks, trees, sink = nil, nil, nil }

// Goroutines that allocate until they are told not to.
func busy(count int) {
	if count < 1 {
		count = 1
	}
	atomic.StoreInt32(&churn, 1)
	for ; count > 0; count-- {
		go func() {
			var last [64][]byte
			for i := 0; atomic.LoadInt32(&churn) == 1; i++ {
				last[i%64] = make([]byte, 100+i%5000)
			}
			runtime.KeepAlive(last)
		}()
	}
}

func idle() {
	atomic.StoreInt32(&churn, 0)
	time.Sleep(50 * time.Millisecond)
}
