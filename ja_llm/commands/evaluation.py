"""`ja-llm eval`, `generate` and `report`: what a model can do, and a page that shows it."""

from pathlib import Path

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb, device_flag, set_device


def evaluate(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        from ja_llm.evaluation.run import evaluate, format_results

        tasks = args.task or args.suite or "first"
        print(
            format_results(
                evaluate(
                    args.checkpoint,
                    tasks,
                    root=args.documents,
                    pairs=args.pairs,
                    data=args.data,
                    out_dir=args.out,
                    limit=args.limit,
                    length=args.length,
                    baseline=args.baseline,
                    run_generated_code_without_sandbox=args.run_generated_code_without_sandbox,
                )
            )
        )

    parser = add_verb(
        verbs,
        "eval",
        handler,
        "Evaluate a checkpoint on held-out text, tasks and published sets, with intervals.",
        "ja-llm eval --checkpoint runs/ja --suite first --documents data/corpus --pairs data/debian-docs/pairs/messages.jsonl",
    )
    parser.add_argument("--checkpoint", type=path, required=True, metavar="C", help="model directory or run, or DIR@STEP")
    parser.add_argument(
        "--length", type=int, default=512, help="scoring window in tokens, at most the model's own (default: 512)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--suite", help="named list of tasks (default: first)")
    what.add_argument("--task", action="append", help="one task (repeat); not together with --suite")
    parser.add_argument("--documents", type=path, metavar="DIR", help="document set; its heldout split is used")
    parser.add_argument("--pairs", type=path, metavar="FILE", help='JSONL of {"en", "ja"} pairs for the translation task')
    parser.add_argument(
        "--data",
        type=path,
        metavar="DIR",
        help="original files of published sets, for the suites swallow and strict (docs/evaluation.md)",
    )
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="where results go (default: inside the model directory, eval/step_N)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        help="at most so many examples of each choice or generation task; bits per byte always read the whole held-out set",
    )
    parser.add_argument(
        "--baseline",
        type=path,
        metavar="DIR",
        help="another run's results (its --out): differences on the same items, with p-values",
    )
    parser.add_argument(
        "--run_generated_code_without_sandbox",
        action="store_true",
        help="where the sandbox does not work: let code that the model wrote do all that you can do on this machine",
    )
    device_flag(parser)


def generate(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        from ja_llm.evaluation.generation import generate
        from ja_llm.train.checkpoints import load_model

        for text in generate(
            load_model(args.checkpoint), args.prompt, max_new_tokens=args.max_tokens, temperature=args.temperature, seed=args.seed
        ):
            print(text)

    parser = add_verb(
        verbs, "generate", handler, "Continue a prompt.", "ja-llm generate --checkpoint runs/ja --prompt 日本の春は"
    )
    parser.add_argument("--checkpoint", type=path, required=True, metavar="C")
    parser.add_argument("--prompt", action="append", required=True, metavar="T", help="text to continue (repeat)")
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    device_flag(parser)


def report(verbs) -> None:
    def handler(args, rest):
        from ja_llm.evaluation.report import write_report

        print(
            write_report(
                [Path(run) for run in args.run],
                Path(args.out),
                corpus=args.documents,
                certificate=args.certificate,
                samples=args.samples,
            )
        )

    parser = add_verb(
        verbs,
        "report",
        handler,
        "One self-contained HTML page with curves and tables, runs side by side.",
        "ja-llm report runs/ja runs/twin --out report.html --documents data/corpus",
    )
    parser.add_argument("run", type=path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=path, default="report.html")
    parser.add_argument("--documents", type=path, metavar="DIR", help="document set, for the yield funnel")
    parser.add_argument("--certificate", type=path, metavar="FILE", help="certificate.json of a vocabulary expansion")
    parser.add_argument("--samples", type=path, metavar="FILE", help='JSON of generated texts: {"prompts": [...], RUN: [...]}')
