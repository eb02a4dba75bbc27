# load.py thumbnails|clients SECONDS PORT-or-DIRECTORY: work for the pictures of the dashboards.
import json, os, random, socket, sys, tempfile, threading, time

role, end, where = sys.argv[1], time.time() + int(sys.argv[2]), sys.argv[3]
lock = threading.Lock()


def resize():
    while time.time() < end:
        with lock:
            json.loads(json.dumps([{"n": i, "s": "x" * 50} for i in range(800)]))
            time.sleep(random.random() * 0.03)
        time.sleep(0.01)


def store():
    while time.time() < end:
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(os.urandom(1 << 19))
            file.flush()
            os.fsync(file.fileno())
        time.sleep(0.25)


def ask():
    try:
        converse()
    except OSError:
        # The server ends first.
        pass


def converse():
    with socket.create_connection(("127.0.0.1", int(where))) as server:
        number = 0
        while time.time() < end:
            for _ in range(20):
                number += 1
                words = ["SET", "key%d" % (number % 3000), "v" * random.randint(50, 600)]
                text = "*3\r\n" + "".join("$%d\r\n%s\r\n" % (len(word), word) for word in words)
                server.sendall(text.encode())
                server.recv(64)
            time.sleep(0.05 if int(time.time()) % 20 < 12 else 0.2)


threads = [resize] * 3 + [store] if role == "thumbnails" else [ask]
for one in threads:
    threading.Thread(target=one).start()
