"""`ja-llm import` and `ja-llm export`: models of other software in and out."""

import argparse
import re

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb, device_flag, set_device, spare_rows_flag

DTYPES = ("float32", "bfloat16", "float16")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*([KMG]B)?", text.strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or a number with KB, MB or GB, such as 5GB")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def import_model(verbs) -> None:
    def handler(args, rest):
        set_device(args.device if args.mesh else "cpu")
        if args.like:
            from ja_llm.interop.t5x_checkpoints import format_crossing, from_t5x

            print(format_crossing(from_t5x(args.source, args.like, args.out, args.overwrite)))
            return
        from ja_llm.interop.hf import format_summary
        from ja_llm.interop.importing import import_checkpoint

        mesh = None
        if args.mesh:
            from ja_llm.evaluation.continuations import parse_mesh
            from ja_llm.sharding import make_mesh

            mesh = make_mesh(parse_mesh(args.mesh))
        chosen = {"overwrite": args.overwrite, "dry_run": args.dry_run, "mesh": mesh}
        if args.spare_rows is not None:
            chosen["spare_rows"] = args.spare_rows
        print(format_summary(import_checkpoint(args.source, args.out, args.dtype, args.text_check, **chosen)))

    parser = add_verb(
        verbs,
        "import",
        handler,
        "Hugging Face checkpoint or GGUF file to a model directory, with a self-check at the end (docs/interchange.md).",
        "ja-llm import path/to/hf-model --out models/base",
    )
    parser.add_argument(
        "source", type=path, metavar="SRC", help="folder with config.json, *.safetensors and tokenizer files, or a .gguf file"
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR")
    parser.add_argument(
        "--like",
        type=path,
        metavar="DIR",
        help="SRC is a checkpoint of t5x (checkpoint_<step>) of this model directory (docs/t5x.md)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the stored parameters (default: float32; on a small host bfloat16, with --no_text_check: float32 is held whole)",
    )
    spare_rows_flag(parser)
    parser.add_argument("--dry_run", action="store_true", help="check all but the numbers, and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="what lies beside an earlier model in DIR (eval/) may go")
    parser.add_argument(
        "--no_text_check", dest="text_check", action="store_false", help="don't let the model read two sentences at the end"
    )
    parser.add_argument(
        "--mesh",
        metavar="AXES",
        help="read straight into devices, such as fsdp=8, where one can't hold the model (default: the host)",
    )
    device_flag(parser)


def export_model(verbs) -> None:
    def handler(args, rest):
        set_device("cpu")
        if args.format == "t5x":
            from ja_llm.interop.t5x_checkpoints import format_crossing, to_t5x

            print(format_crossing(to_t5x(args.run, args.out)))
            return
        from ja_llm.interop.hf import export_hf, format_summary

        print(format_summary(export_hf(args.run, args.out, args.dtype, args.max_shard_size, args.overwrite)))

    parser = add_verb(
        verbs,
        "export",
        handler,
        "Model directory or run to a Hugging Face folder that transformers loads.",
        "ja-llm export runs/ja --out export/ja",
    )
    parser.add_argument("run", type=path, metavar="RUN", help="model directory or run, or DIR@STEP")
    parser.add_argument("--out", type=path, required=True, metavar="DIR")
    parser.add_argument(
        "--format",
        choices=("hf", "t5x"),
        default="hf",
        help="hf: a Hugging Face folder; t5x: DIR/checkpoint_<step> (docs/t5x.md)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the tensors (default: the parameters' own; of an import that was not changed since, its source's)",
    )
    parser.add_argument("--max_shard_size", type=_size, default="5GB", help="of a weight file, such as 500MB (default: 5GB)")
    parser.add_argument("--overwrite", action="store_true", help="what lies beside an earlier export in DIR may go")
