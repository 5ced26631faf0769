"""Entry of a local Beam worker process: Beam's own, without its log: an error comes back to the process that started the job."""

import logging
import signal

logging.disable(logging.CRITICAL)
signal.signal(
    signal.SIGINT, signal.SIG_IGN
)  # Ctrl-C reaches the whole terminal's group: the process that started this one answers it

if __name__ == "__main__":
    import sys

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
