// Package given is a module of its own, so that a program has one that was replaced.
package given

// Word is used by the program, so that the linker keeps the module.
func Word() string { return "given" }
