"""`ja-llm eval`, `generate` and `report`: what a model can do, and a page that shows it."""

import argparse
import sys
from pathlib import Path

from ja_llm.command_line import checkpoint, path
from ja_llm.commands.parsing import add_verb, device_flag, set_device
from ja_llm.errors import UsageError


def _process(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdigit() or not count.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the work; write it as 0/2 and 1/2")
    return int(number), int(count)


def _mt_bench(args) -> str:
    from ja_llm.evaluation.mt_bench import evaluate_checkpoint, format_result

    if args.data is None:
        raise UsageError("mt_bench_ja: this task needs the original files of its set; give their folder (--data DIR).")
    names = ("judge_url", "judge_model", "judge_key_file", "judge_checkpoint", "limit", "mesh")
    chosen = {name: getattr(args, name) for name in names}
    return format_result(evaluate_checkpoint(args.checkpoint, args.data, args.out, chat_file=args.chat, **chosen))


def _judge_flags(parser) -> None:
    group = parser.add_argument_group("the judge of --task mt_bench_ja (alone)")
    group.add_argument("--judge_url", metavar="URL", help="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1")
    group.add_argument("--judge_model", default="", metavar="NAME", help="the judge's model there; it stands in the results")
    group.add_argument("--judge_key_file", type=path, metavar="FILE", help="text file with the endpoint's key")
    group.add_argument("--judge_checkpoint", type=path, metavar="C", help="one of our checkpoints as the judge instead")
    group.add_argument(
        "--chat", type=path, metavar="FILE", help="JSON with user, assistant, between and stop texts of a conversation"
    )


def evaluate(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        if args.task == ["mt_bench_ja"]:
            print(_mt_bench(args))
            return
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
                    training=args.training or (),
                    mesh=args.mesh,
                    process=args.process,
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
    parser.add_argument("--checkpoint", type=checkpoint, required=True, metavar="C", help="model directory or run, or DIR@STEP")
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
        "--training",
        type=path,
        action="append",
        metavar="DIR",
        help="document set that the model was trained on (repeat): items of published sets that stand in it are scored apart",
    )
    parser.add_argument(
        "--mesh", metavar="AXES", help="spread over devices, such as data=8 or data=2,tensor=4 (default: one device)"
    )
    parser.add_argument(
        "--process",
        type=_process,
        default=(0, 1),
        metavar="I/N",
        help="this is process I (from 0) of N that share the work and --out (default: 0/1)",
    )
    parser.add_argument(
        "--run_generated_code_without_sandbox",
        action="store_true",
        help="where the sandbox does not work: let code that the model wrote do all that you can do on this machine",
    )
    _judge_flags(parser)
    device_flag(parser)


def generate(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        from ja_llm.evaluation.continuations import continue_prompts
        from ja_llm.evaluation.sampling import Sampling

        drawn = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
        continue_prompts(
            args.checkpoint,
            args.prompt,
            sys.stdout,
            max_new_tokens=args.max_tokens,
            stop=args.stop,
            sampling=Sampling(**{name: getattr(args, name) for name in drawn}),
            seed=args.seed,
            scored=args.score,
            mesh=args.mesh,
        )

    parser = add_verb(
        verbs,
        "generate",
        handler,
        "Continue a prompt, in text that appears as it is written (docs/generation.md).",
        "ja-llm generate --checkpoint runs/ja --prompt 日本の春は --temperature 0.8 --top_p 0.95",
    )
    parser.add_argument("--checkpoint", type=checkpoint, required=True, metavar="C")
    parser.add_argument("--prompt", action="append", required=True, metavar="T", help="text to continue (repeat)")
    parser.add_argument("--max_tokens", type=int, default=64, help="tokens written at most (default: 64)")
    parser.add_argument("--stop", action="append", default=[], metavar="T", help="end before this text (repeat)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top_k", type=int, default=0, help="draw from so many likeliest tokens (default: all)")
    parser.add_argument("--top_p", type=float, default=1.0, help="... from those that together have this probability")
    parser.add_argument("--min_p", type=float, default=0.0, help="... from those with this share of the likeliest one's")
    parser.add_argument(
        "--repetition_penalty", type=float, default=1.0, help="above 1: tokens that the text has become less likely"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument(
        "--score", action="append", default=[], metavar="T", help="write nothing; say how likely this continuation is (repeat)"
    )
    parser.add_argument("--mesh", metavar="AXES", help="spread over devices, such as data=1,tensor=4 (default: one device)")
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
