"""Entry of a local Beam worker process: Beam's own, without its log: an error comes back to the process that started the job.

    python -m beam_pipelines.worker PID     PID: the process that started the job

It ends when that process does. Beam's own goes on for seconds beside the next run, which has the lock, and one that has just
started waits for more than a minute.
"""

import logging
import os
import signal
import sys
import threading
import time

_LOOK_S = 0.5

logging.disable(logging.CRITICAL)
# Ctrl-C reaches the whole terminal's group, and what ends a service or a job SIGTERM: the process that started this one answers them.
for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, signal.SIG_IGN)


def end_with(launcher: int) -> None:
    """End this process as soon as it is no longer `launcher`'s child: whoever loses its parent gets another."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_LOOK_S)
        os._exit(1)  # at once: a half-written file has a temporary name, and there is nobody to tell

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    # What breaks off when the launcher ends, gRPC tells from its threads with tracebacks.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    end_with(int(sys.argv[1]))

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
