"""Launches by the shared library, in a process of its own: LIBRARY, then launches as JSON.

Nothing of rnnscan or JAX is imported. A message is printed after each launch that has one; lists
within the list are launched by as many threads at once.
"""

import ctypes
import json
import sys
import threading


def launch(launcher, stream, text, digest, entry, grid, block, shared_bytes, buffers):
    message = ctypes.create_string_buffer(4000)
    launcher(
        ctypes.c_void_p(stream),
        *(ctypes.c_char_p(word.encode()) for word in (text, digest, entry)),
        *map(ctypes.c_int64, (grid, block, shared_bytes)),
        (ctypes.c_void_p * len(buffers))(*buffers),
        ctypes.c_int64(len(buffers)),
        message,
        ctypes.c_int64(len(message)),
    )
    if message.value:
        print("said", message.value.decode(), flush=True)


if __name__ == "__main__":
    LAUNCHER = ctypes.CDLL(sys.argv[1]).rnnscan_cuda_launch_buffers
    for given in json.loads(sys.argv[2]):
        at_once = given if isinstance(given, list) else [given]
        threads = [
            threading.Thread(target=launch, args=(LAUNCHER,), kwargs=each) for each in at_once
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
