"""`ja-llm import` and `ja-llm export`: models of other software in and out."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb, set_device, spare_rows_flag

DTYPES = ("float32", "bfloat16", "float16")


def import_model(verbs) -> None:
    def handler(args, rest):
        set_device("cpu")
        from ja_llm.interop.hf import format_summary
        from ja_llm.interop.importing import import_checkpoint

        options = {} if args.spare_rows is None else {"spare_rows": args.spare_rows}
        print(format_summary(import_checkpoint(args.source, args.out, args.dtype, try_texts=True, **options)))

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
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored parameters (default: float32)")
    spare_rows_flag(parser)


def export_model(verbs) -> None:
    def handler(args, rest):
        set_device("cpu")
        from ja_llm.interop.hf import export_hf, format_summary

        print(format_summary(export_hf(args.run, args.out, args.dtype)))

    parser = add_verb(
        verbs,
        "export",
        handler,
        "Model directory or run to a Hugging Face folder that transformers loads.",
        "ja-llm export runs/ja --out export/ja",
    )
    parser.add_argument("run", type=path, metavar="RUN", help="model directory or run, or DIR@STEP")
    parser.add_argument("--out", type=path, required=True, metavar="DIR")
    parser.add_argument("--dtype", choices=DTYPES, help="of the tensors (default: the parameters' own)")
