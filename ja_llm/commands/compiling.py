"""`ja-llm compile`: a training run compiled ahead of time for TPUs that are not here."""

import ast

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb
from ja_llm.errors import UsageError

EXAMPLE = (
    "ja-llm compile --topology v5p:4x4x4 --gin_file=models/llama31_8b.gin --gin_file=runs/pretrain.gin \\\n"
    "    --vocab_size 128256 --gin.BATCH_SIZE=1024 --gin.TASK_FEATURE_LENGTHS=\"{'targets': 8192}\" \\\n"
    "    --gin.MESH=\"{'fsdp': -1}\" --gin_bindings=\"config.DecoderConfig.dtype = 'bfloat16'\" --sweep"
)

# `ja_llm.train.memory.LADDER`, the least recomputation first; that module loads JAX (a test compares them).
REMAT = ("none", "minimal", "attention", "full")


def compile_(verbs) -> None:
    from ja_llm.gin_utils import add_gin_flags, split_gin_flags

    def handler(args, rest):
        rest, bindings = split_gin_flags(rest)
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        from ja_llm.compile.run import run, with_flags

        return run(
            args.gin_file,
            args.gin_bindings + bindings,
            args.topology,
            search_paths=args.gin_search_paths,
            vocab_size=args.vocab_size,
            compiler_options=with_flags(args.topology, dict(_pair(text) for text in args.xla), args.flags),
            policies=args.remat if args.remat or not args.sweep else ("minimal", "attention", "full"),
            microbatches=args.microbatches if args.microbatches or not args.sweep else (1, 2, 4, 8, 16),
            meshes=[_mesh(text) for text in args.mesh],
            out=args.out,
            dump=args.hlo,
        )

    parser = add_verb(
        verbs,
        "compile",
        handler,
        "Compile a training run for a TPU slice without one: does it fit, what does it compute, what goes over the links.",
        EXAMPLE,
        takes_rest=True,
    )
    add_gin_flags(parser)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="T",
        help="generation and chips, e.g. v5e:16x16, v5p:4x4x4, v6e:16x16; or GPUs, machines x GPUs in each, e.g. h100:16x8 (lowered only)",
    )
    parser.add_argument(
        "--vocab_size", type=int, metavar="N", help="rows of the embedding, where neither CACHE_DIR nor a checkpoint says it"
    )
    parser.add_argument(
        "--xla", action="append", default=[], metavar="NAME=VALUE", help="compiler option, as in LIBTPU_INIT_ARGS (repeat)"
    )
    parser.add_argument(
        "--flags",
        action="store_true",
        help="with the compiler flags that ja-llm launch sets (docs/pod.md lists them); takes much longer",
    )
    parser.add_argument("--out", type=path, metavar="FILE", help="write what was found as JSON")
    parser.add_argument("--hlo", type=path, metavar="FILE", help="write the compiled program as text (of a sweep: the last one)")
    swept = parser.add_argument_group("sweep: the fastest that fits, least recomputation first")
    swept.add_argument(
        "--sweep", action="store_true", help="try remat minimal, attention, full and 1 to 16 microbatches until something fits"
    )
    swept.add_argument(
        "--remat", nargs="+", choices=REMAT, metavar="P", help=f"remat policies to choose from ({', '.join(REMAT)})"
    )
    swept.add_argument("--microbatches", nargs="+", type=int, metavar="N", help="numbers of microbatches to choose from")
    swept.add_argument(
        "--mesh",
        action="append",
        default=[],
        metavar="M",
        help="mesh to choose from, e.g. \"{'fsdp': 64, 'tensor': 4}\" (repeat)",
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--xla {text}: write NAME=VALUE, e.g. xla_tpu_scoped_vmem_limit_kib=98304.")
    return name.lstrip("-"), value


def _mesh(text: str) -> dict[str, int]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"--mesh {text}: write a dict of axis and devices, e.g. \"{{'fsdp': 64, 'tensor': 4}}\".")
    return value
