"""`python -m ja_llm`: the same as `ja-llm`."""

import sys

from ja_llm.cli import main

sys.exit(main())
