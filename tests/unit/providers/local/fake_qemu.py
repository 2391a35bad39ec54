"""Plays QEMU for tests of what a real one does not do on demand: how it behaves stands in STATE/behave, word for word.

refuse      it ends at once, with QEMU's words          panics      its guest's kernel panics, at every power-on
deaf        quit and SIGTERM are nothing to it          panics-once at the first one
"""

import json
import signal
import socket
import sys
import threading
import time
from pathlib import Path


def main(words: list[str]) -> None:
    if words == ["--version"]:
        print("QEMU emulator version 7.2.22 (a test's)")
        return
    socket_path = Path(words[words.index("-qmp") + 1].removeprefix("unix:").partition(",")[0])
    place = socket_path.parent
    behave = (place.parent.parent / "behave").read_text().split()
    starts = place / "starts"
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
    if "refuse" in behave:
        sys.exit("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory")
    if "deaf" in behave:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path))
    listener.listen()
    threading.Thread(target=serve, args=(listener, "deaf" in behave), daemon=True).start()
    if "panics" in behave or ("panics-once" in behave and starts.read_text() == "x"):
        time.sleep(0.3)
        with open(place / "console.log", "a") as console:
            console.write("[    3.1] Kernel panic - not syncing: Fatal exception in interrupt\n")
        return
    gone.wait()


def serve(listener: socket.socket, deaf: bool) -> None:
    while True:
        link, _ = listener.accept()
        with link, link.makefile("rw") as lines:
            print(json.dumps({"QMP": {"version": {}}}), file=lines, flush=True)
            for line in lines:
                command = json.loads(line)["execute"]
                print(json.dumps({"return": {"status": "running"}}), file=lines, flush=True)
                if command == "quit" and not deaf:
                    gone.set()


gone = threading.Event()

if __name__ == "__main__":
    main(sys.argv[1:])
