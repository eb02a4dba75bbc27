// Says what the runtime itself calls places in its code: of all of them, in steps, and of its own stacks.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
)

type shape interface{ area(depth int) int }

type square struct{ side int }

// Called through its pointer too, by a wrapper that the compiler makes.
func (s square) area(depth int) int { return deeper(s.side, depth) }

type largest[T any] struct{ best T }

//go:noinline
func (l *largest[T]) take(value T, seen func()) { l.best = value; seen() }

//go:noinline
func here(n int) int {
	counters := make([]uintptr, 64)
	counters = counters[:runtime.Callers(1, counters)]
	stacks = append(stacks, counters)
	return n + 1
}

var stacks [][]uintptr

// Inlined into each other.
func innermost(n int) int { return here(n) * 2 }
func inner(n int) int     { return innermost(n) + innermost(n+1) }
func middle(n int) int {
	n++
	return inner(n) - 1
}

//go:noinline
func deeper(n, depth int) int {
	if depth > 0 {
		return deeper(n, depth-1) + 1
	}
	return middle(n) + strings.Count("abc", "b")
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	shapes := []shape{square{3}, &square{4}}
	total := 0
	for depth, shape := range shapes {
		total += shape.area(depth)
	}
	numbers, words := largest[int]{}, largest[map[string]int]{}
	numbers.take(1, func() { total += middle(1) })
	words.take(nil, func() { total += middle(2) })
	sort.Slice([]int{3, 1, 2}, func(a, b int) bool { total += inner(a); return a < b })
	defer fmt.Fprintln(os.Stderr, total)

	// Where it is mapped.
	maps, _ := os.ReadFile("/proc/self/maps")
	program, _ := os.Executable()
	for _, line := range strings.Split(string(maps), "\n") {
		if strings.HasSuffix(line, program) {
			fmt.Fprintf(out, "base\t%s\n", strings.SplitN(line, "-", 2)[0])
			break
		}
	}

	// A line for each stack: where it really was called (the address that is returned to, less one), and the functions
	// that are there, innermost first.
	for _, counters := range stacks {
		frames := runtime.CallersFrames(counters)
		var functions []runtime.Frame
		for more := true; more; {
			var frame runtime.Frame
			frame, more = frames.Next()
			// An inlined function has none of its own, and its caller is in the same code. Wrappers aren't told.
			if last := len(functions) - 1; last >= 0 && (functions[last].Func != nil || functions[last].Entry != frame.Entry) {
				say(out, "stack", functions[0].PC, functions)
				functions = nil
			}
			functions = append(functions, frame)
		}
		say(out, "stack", functions[0].PC, functions)
	}

	if len(os.Args) > 1 {
		fmt.Fprintln(out, "end")
		out.Flush()
		// To be looked at, until whoever has started it closes this.
		os.Stdin.Read(make([]byte, 1))
		return
	}

	// All code: of each place, the innermost function, and with newer runtimes the others as well.
	main := runtime.FuncForPC(counter()).Entry()
	for step := -1; step <= 1; step += 2 {
		for place, misses := int64(main), 0; misses < 1<<12; place += int64(step) * 13 {
			if runtime.FuncForPC(uintptr(place)) == nil {
				misses++
				continue
			}
			misses = 0
			var functions []runtime.Frame
			frames := runtime.CallersFrames([]uintptr{uintptr(place) + 1, 1})
			for more := true; more; {
				var frame runtime.Frame
				frame, more = frames.Next()
				if frame.PC == 0 {
					break
				}
				functions = append(functions, frame)
			}
			if len(functions) > 0 && functions[0].PC == uintptr(place) {
				say(out, "place", uintptr(place), functions)
			}
		}
	}
}

//go:noinline
func counter() uintptr {
	counter, _, _, _ := runtime.Caller(1)
	return counter
}

func say(out *bufio.Writer, what string, place uintptr, functions []runtime.Frame) {
	fmt.Fprintf(out, "%s\t%x", what, place)
	for _, function := range functions {
		fmt.Fprintf(out, "\t%s\t%s\t%d", function.Function, function.File, function.Line)
	}
	fmt.Fprintln(out)
}
