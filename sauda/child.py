"""`python -m sauda.child MODULE`: runs a module as __main__ and ends with the parent that holds its standard input."""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 5.0


def _end_with_parent() -> None:
    # Not through sys.stdin: its lock, held by this thread, would crash the interpreter's own shutdown.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    module = sys.argv[1]
    sys.argv = [module]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
