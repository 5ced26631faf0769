"""`ja-llm import` and `ja-llm export`: models of other software in and out."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb, set_device

DTYPES = ("float32", "bfloat16", "float16")


def import_model(verbs) -> None:
    def handler(args, rest):
        set_device("cpu")
        from ja_llm.interop.hf import format_summary, import_hf

        print(format_summary(import_hf(args.source, args.out, args.dtype)))

    parser = add_verb(
        verbs,
        "import",
        handler,
        "Hugging Face checkpoint (Llama family) to a model directory.",
        "ja-llm import path/to/hf-model --out models/base",
    )
    parser.add_argument("source", type=path, metavar="SRC", help="folder with config.json, *.safetensors and tokenizer files")
    parser.add_argument("--out", type=path, required=True, metavar="DIR")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored parameters (default: float32)")


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
