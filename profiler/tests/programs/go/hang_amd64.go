package main

import (
	"syscall"
	"unsafe"
)

// Takes a page of its own memory away and promises the kernel to bring it back, which it never does: whoever reads it waits
// (userfaultfd(2)). Answers nothing after that.
func init() {
	hang = func(page uintptr) {
		const userfaultfd, api, register, missing, dontNeed = 323, 0xc018aa3f, 0xc020aa00, 1, 4
		descriptor, _, errno := syscall.RawSyscall(userfaultfd, syscall.O_CLOEXEC, 0, 0)
		if errno != 0 {
			println("userfaultfd:", errno)
			return
		}
		// struct uffdio_api and struct uffdio_register of include/uapi/linux/userfaultfd.h.
		version := [3]uint64{0xaa, 0, 0}
		region := [4]uint64{uint64(page), 4096, missing, 0}
		if _, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, descriptor, api, uintptr(unsafe.Pointer(&version))); errno != 0 {
			println("UFFDIO_API:", errno)
			return
		}
		if _, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, descriptor, register, uintptr(unsafe.Pointer(&region))); errno != 0 {
			println("UFFDIO_REGISTER:", errno)
			return
		}
		ready := []byte("{}\n")
		// Behind the next line nothing of the runtime may be used.
		syscall.RawSyscall(syscall.SYS_MADVISE, page, 4096, dontNeed)
		syscall.RawSyscall(syscall.SYS_WRITE, 1, uintptr(unsafe.Pointer(&ready[0])), uintptr(len(ready)))
		for {
			syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
		}
	}
}
