"""driver.py FILE [rate=NUMBER]: calls the leaking extension that FILE is, half of the bytes per second for each leak."""

import importlib.machinery
import importlib.util
import json
import os
import random
import select
import signal
import sys
import time

# Whatever the file is called.
loader = importlib.machinery.ExtensionFileLoader("planted", sys.argv[1])
planted = importlib.util.module_from_spec(importlib.util.spec_from_loader("planted", loader))
loader.exec_module(planted)
settings = dict(argument.split("=") for argument in sys.argv[2:])
rate = float(settings.get("rate", 1e6)) / 2
signal.alarm(int(settings.get("lifetime", 900)))


def say(text):
    os.write(1, text.encode() + b"\n")


def site(objects, size):
    return {
        "allocated_objects": objects,
        "allocated_bytes": size,
        "freed_objects": 0,
        "freed_bytes": 0,
        "lost_objects": objects,
        "lost_bytes": size,
    }


def tell_truth(working):
    blocks, block_bytes, objects, object_bytes = planted.truth()
    say(
        json.dumps(
            {
                "monotonic_ns": time.monotonic_ns(),
                "realtime_ns": time.time_ns(),
                "working": working,
                "sites": {"leak_buffer": site(blocks, block_bytes), "leak_reference": site(objects, object_bytes)},
            }
        )
    )


def step(worked):
    # Objects of more than 512 bytes are the C library's blocks; smaller ones share a block of the interpreter.
    while planted.truth()[1] < rate * worked:
        planted.parse(random.randint(100, 2000))
    while planted.truth()[3] < rate * worked:
        planted.encode(random.randint(600, 2000))


def converse():
    working, worked, last = False, 0.0, 0.0
    say("ready")
    while True:
        readable, _, _ = select.select([0], [], [], 0.005 if working else None)
        if readable:
            line = b""
            while not line.endswith(b"\n"):
                byte = os.read(0, 1)
                if not byte:
                    return
                line += byte
            if line == b"truth\n":
                tell_truth(working)
            else:
                working, last = line == b"start\n", time.monotonic()
        if working:
            now = time.monotonic()
            worked, last = worked + now - last, now
            step(worked)


converse()
