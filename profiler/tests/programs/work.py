"""Ordinary work of a script, between two marks that the counting library sets."""

import ctypes
import json
import re
import sys
import threading

counter = ctypes.CDLL(sys.argv[1])


def work(rounds):
    words = {}
    for number in range(rounds):
        text = json.dumps({"number": number, "list": list(range(number % 40)), "text": "x" * (number % 700)})
        again = json.loads(text)
        words[f"key {number % 500}"] = [again, re.sub(r"\d+", lambda found: found.group() + "!", text)]
        if number % 97 == 0:
            words.clear()
    return sorted(words)


def in_threads(count):
    # A thread's own record is allocated by the C library for the program; what the thread's end gives back isn't.
    threads = [threading.Thread(target=work, args=(60,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


work(100)
in_threads(2)
counter.observed_part_begins()
work(1500)
in_threads(12)
bytearray(5_000_000).extend(b"y" * 3_000_000)
counter.observed_part_ends()
