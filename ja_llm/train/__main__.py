"""`python -m ja_llm.train`: the same as `ja-llm train`."""

import sys

from ja_llm.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
