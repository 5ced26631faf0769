"""Entry of a local Beam worker process: Beam's own, without the log lines that it writes before its log level is set."""

import logging

logging.disable(logging.WARNING)

if __name__ == "__main__":
    import sys

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
