//go:build !noprofile

package main

import (
	"bytes"
	"runtime/debug"
	"runtime/pprof"
)

// Its own profile as text, then stop. No collection is to begin meanwhile, for each moves the profile on; how many there had
// been before and behind tells whether that worked.
func profile(command string) any {
	var text bytes.Buffer
	allowed := debug.SetGCPercent(-1)
	text.Grow(4 << 20)
	debug.ReadGCStats(&cycles)
	before := cycles.NumGC
	if command == "heapstop" {
		pprof.Lookup("heap").WriteTo(&text, 1)
	} else {
		pprof.Lookup("goroutine").WriteTo(&text, 2)
	}
	debug.ReadGCStats(&cycles)
	behind := cycles.NumGC
	stopSelf()
	debug.SetGCPercent(allowed)
	return map[string]any{"text": text.String(), "before": before, "behind": behind}
}
