// A Go program with the C library in it: keeps 16 KiB every millisecond once it is told to, as often as it is told.
package main

// #include <stdlib.h>
import "C"

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

var kept [][]byte

func keep() {
	block := make([]byte, 16384)
	for i := range block {
		block[i] = 1
	}
	kept = append(kept, block)
	C.free(C.malloc(4096))
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	fmt.Println("ready")
	for lines.Scan() {
		count := 0
		fmt.Sscanf(lines.Text(), "leak %d", &count)
		for i := 0; i < count; i++ {
			keep()
			time.Sleep(time.Millisecond)
		}
		fmt.Println("{}")
	}
}
