"""`ja-llm import` and `ja-llm export`: models of other software in and out."""

from ja_llm.commands.parsing import add_verb, set_device


def import_model(verbs) -> None:
    def handler(args, rest):
        set_device("cpu")
        from ja_llm.interop.hf import format_summary, import_hf

        print(format_summary(import_hf(args.source, args.out)))

    parser = add_verb(
        verbs,
        "import",
        handler,
        "Hugging Face checkpoint (Llama family) to a model directory.",
        "ja-llm import path/to/hf-model --out models/base",
    )
    parser.add_argument("source", metavar="SRC", help="folder with config.json, *.safetensors and tokenizer files")
    parser.add_argument("--out", required=True, metavar="DIR")


def export_model(verbs) -> None:
    def handler(args, rest):
        set_device("cpu")
        from ja_llm.interop.hf import export_hf, format_summary

        print(format_summary(export_hf(args.run, args.out)))

    parser = add_verb(
        verbs,
        "export",
        handler,
        "Model directory or run to a Hugging Face folder that transformers loads.",
        "ja-llm export runs/ja --out export/ja",
    )
    parser.add_argument("run", metavar="RUN", help="model directory or run, or DIR@STEP")
    parser.add_argument("--out", required=True, metavar="DIR")
