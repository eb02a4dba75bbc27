//go:build withc

package main

// #include <stdlib.h>
// #include <unistd.h>
// static void touch(void) { free(malloc(4096)); }
// static int wait_for(int descriptor) { char byte; return (int) read(descriptor, &byte, 1); }
import "C"

import "os"

func init() {
	C.touch()
	kinds = append(kinds, kind{"c", func(end <-chan struct{}) {
		reading, writing, err := os.Pipe()
		if err != nil {
			return
		}
		go func() {
			<-end
			writing.Close()
		}()
		inC(int(reading.Fd()))
		reading.Close()
	}})
}

//go:noinline
func inC(descriptor int) { C.wait_for(C.int(descriptor)) }
