"""Allocates through CPython's domains, and says what the interpreter itself says of them.

A line of standard input is a round: "none", or what to do and how often. The answer to every round is made in the same
way, so that what it allocates itself is the same between any two of them.
"""

import ctypes
import os
import sys

raw_malloc = ctypes.pythonapi.PyMem_RawMalloc
raw_malloc.restype = ctypes.c_void_p
raw_malloc.argtypes = [ctypes.c_size_t]

keep = [None] * 32


def work(what, count):
    if what == "bytes":
        # A bytes object of 100 bytes is one block of the object domain; the list is one of the mem domain.
        return [bytes(100) for _ in range(count)]
    if what == "large":
        # Above 512 bytes pymalloc passes it on.
        return [bytes(2000) for _ in range(count)]
    if what == "floats":
        return [i * 0.5 for i in range(count)]
    if what == "integers":
        return list(range(300, 300 + count))
    if what == "nothing":
        return [None for i in range(count)]
    if what == "trace":
        import tracemalloc
        tracemalloc.start()
        # Not loaded yet by anything here.
        import _lsprof
    if what == "raw":
        for _ in range(count):
            raw_malloc(100)
    return None


def main():
    os.write(1, b"ready\n")
    round = 0
    while line := os.read(0, 100):
        what, count = line.split()
        keep[round] = work(what.decode(), int(count))
        round += 1
        os.write(1, b'{"blocks": %d}\n' % sys.getallocatedblocks())


main()
