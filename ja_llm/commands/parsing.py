"""What every verb shares: its parser with an example, and the device flag."""

import argparse
import sys
from collections.abc import Callable

from ja_llm.errors import UsageError

Handler = Callable[[argparse.Namespace, list[str]], int | None]


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, with exit code 2; flags are never abbreviated."""

    def __init__(self, *args, **kwargs):
        kwargs = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but a switch that takes `=true` takes no other word: argparse gives it the next one that has a space, of whatever
        beginning (`--dry_run --gin.RATES="{'a': 1}"`)."""
        words = list(sys.argv[1:] if args is None else args)
        bare = {name for one in self._actions if one.nargs == "?" and one.const is True for name in one.option_strings}
        end = words.index("--") if "--" in words else len(words)
        words[:end] = [f"{word}=true" if word in bare else word for word in words[:end]]
        return super().parse_known_args(words, namespace)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`.\n")


def add_verb(verbs, name: str, handler: Handler, text: str, example: str, takes_rest: bool = False) -> argparse.ArgumentParser:
    """Add a verb.

    Args:
      verbs: what `add_subparsers` or `add_group` gave.
      name: what is typed.
      handler: called with the parsed arguments and, for a verb that `takes_rest`, the ones that were not known.
      text: one line for the list of verbs and the verb's own help.
      example: a command line that the verb's own parser takes.
      takes_rest: hand unknown flags on (gin's, Beam's).
    """
    parser = verbs.add_parser(name, help=text, description=text, epilog=f"Example:\n  {example}")
    parser.set_defaults(handler=handler, parser=parser, takes_rest=takes_rest)
    return parser


def add_group(verbs, name: str, text: str):
    """Add a verb of verbs (`corpus build`); returns what its verbs are added to."""
    parser = verbs.add_parser(
        name, help=text, description=text, epilog=f"`ja-llm {name} WHAT --help` says more of each, with an example."
    )
    return parser.add_subparsers(dest=f"{name}_verb", metavar="WHAT", required=True)


def count(text: str) -> int:
    """Type of a flag for a number of tokens or parameters: 20000000, 2e7 or 20M (k, M, B, T: thousands, millions, ...)."""
    scale = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}.get(text[-1:], 0)
    try:
        value = float(text[:-1]) * scale if scale else float(text)
        if not 0 < value < 1e18:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, e.g. 20000000, 2e7 or 20M") from None
    return round(value)


def device_flag(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu", "tpu"), default="auto", help="where to compute (default: JAX's own choice)"
    )


def spare_rows_flag(parser: argparse.ArgumentParser) -> None:
    """Add --spare_rows."""
    parser.add_argument(
        "--spare_rows",
        type=int,
        metavar="N",
        help="take up to N table rows without an id for padding (default: 1024); more are refused as another model's vocabulary",
    )


def set_device(device: str) -> None:
    """Choose JAX's platform before anything is computed, and quiet the libraries' step-by-step logs.

    Raises:
      UsageError: there is no such device.
    """
    import logging

    import jax

    # Orbax and JAX log each step of each save at INFO or WARNING, and a failed one with its traceback; errors come as exceptions.
    for name in ("absl", "orbax", "jax._src.xla_bridge"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without the platform's plugin JAX has an assertion for it, of no text
        why = f" ({first})" if (first := (str(error).splitlines() or [""])[0]) else ""
        raise UsageError(
            f"--device {device}: JAX finds no such device here{why}; leave --device out, or install its extra."
        ) from error
