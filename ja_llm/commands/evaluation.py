"""`ja-llm eval`, `generate` and `report`: what a model can do, and a page that shows it."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ja_llm.command_line import checkpoint, path
from ja_llm.commands.parsing import add_verb, device_flag, set_device
from ja_llm.errors import UsageError


def _process(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdigit() or not count.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the work; write it as 0/2 and 1/2")
    return int(number), int(count)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no option; write it as NAME=VALUE, such as temperature=1")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _options(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text}: write it as NAME=VALUE, such as begins_document=yes.")
        found[name] = value
    return found


def _judge_flags(parser) -> None:
    group = parser.add_argument_group("the judge of mt_bench_ja")
    group.add_argument("--judge_url", metavar="URL", help="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1")
    group.add_argument("--judge_model", default="", metavar="NAME", help="the judge's model there; it stands in the results")
    group.add_argument("--judge_key_file", type=path, metavar="FILE", help="text file with the endpoint's key")
    group.add_argument("--judge_checkpoint", type=path, metavar="C", help="one of our checkpoints as the judge instead")
    group.add_argument(
        "--judge_chat", type=path, metavar="FILE", help="as --chat, how a question becomes a prompt of --judge_checkpoint"
    )
    group.add_argument(
        "--judge_option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="field of the request (repeat), over temperature=0 and max_tokens=2048; null takes one out",
    )
    group.add_argument(
        "--chat", type=path, metavar="FILE", help="JSON with user, assistant, between and stop texts of a conversation"
    )


def _judge(args):
    """(judge, chat) of the flags; both None without them."""
    if not any((args.judge_url, args.judge_checkpoint, args.chat)):
        return None, None
    from ja_llm.evaluation.conversation import read_chat
    from ja_llm.evaluation.mt_bench import chosen_judge

    chat = read_chat(args.chat) if args.chat else None
    options = dict(args.judge_option)
    return (
        chosen_judge(args.judge_url, args.judge_model, args.judge_key_file, args.judge_checkpoint, args.judge_chat, options),
        chat,
    )


def evaluate(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        from ja_llm.evaluation.run import evaluate, format_results

        judge, chat = _judge(args)
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
                    options=_options(args.option),
                    judge=judge,
                    chat=chat,
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
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="make one choice of the profile otherwise (repeat; docs/evaluation.md), such as begins_document=yes for Gemma",
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
        from ja_llm.evaluation.continuations import continue_prompts, keep_samples, kept_samples, model_name
        from ja_llm.evaluation.sampling import Sampling

        drawn = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
        written = ("max_tokens", "stop", "seed", "bos", "samples", *drawn)
        unused = [name for name in written if getattr(args, name) != parser.get_default(name)] if args.score else []
        if unused:
            raise UsageError(f"--score writes nothing, so --{unused[0]} would do nothing; leave one of the two out.")
        if args.samples:
            model_name(args.checkpoint)
            kept_samples(args.samples, args.prompt)  # refused before anything is loaded
        texts = continue_prompts(
            args.checkpoint,
            args.prompt,
            sys.stdout,
            max_new_tokens=args.max_tokens,
            stop=args.stop,
            sampling=Sampling(**{name: getattr(args, name) for name in drawn}),
            seed=args.seed,
            scored=args.score,
            mesh=args.mesh,
            bos=args.bos,
        )
        if args.samples:
            keep_samples(args.samples, args.prompt, model_name(args.checkpoint), texts)

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
    parser.add_argument(
        "--bos",
        action=argparse.BooleanOptionalAction,
        help="begin with BOS, or not (default: as the model's published tokenizer does)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top_k", type=int, default=0, help="draw from so many likeliest tokens (default: all)")
    parser.add_argument("--top_p", type=float, default=1.0, help="... from those that together have this probability")
    parser.add_argument("--min_p", type=float, default=0.0, help="... from those with this share of the likeliest one's")
    parser.add_argument(
        "--repetition_penalty", type=float, default=1.0, help="above 1: tokens that the text has become less likely"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument(
        "--samples",
        type=path,
        metavar="FILE",
        help="also keep the texts there, for `ja-llm report --samples`, beside other models'",
    )
    parser.add_argument(
        "--score", action="append", default=[], metavar="T", help="write nothing; say how likely this continuation is (repeat)"
    )
    parser.add_argument("--mesh", metavar="AXES", help="spread over devices, such as data=1,tensor=4 (default: one device)")
    device_flag(parser)


def report(verbs) -> None:
    def handler(args, rest):
        from ja_llm.evaluation.report import write_report

        if args.table:
            from ja_llm.evaluation.score_table import write_table

            print(write_table(args.run, args.table, published=args.published))
        if args.flexeval:
            from ja_llm.evaluation.flexeval_files import write_flexeval

            write_flexeval(args.run, args.flexeval)
            print(args.flexeval)
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
    parser.add_argument("run", type=path, nargs="+", metavar="RUN", help="run or model directory, or what `eval --out` wrote")
    parser.add_argument(
        "--table", type=path, metavar="FILE", help="also write the scores of published sets as CSV, a row a model"
    )
    parser.add_argument("--published", action="store_true", help="put Swallow's published rows into that table, too")
    parser.add_argument(
        "--flexeval",
        type=path,
        metavar="DIR",
        help="also write them as FlexEval does: DIR/MODEL/TASK/metrics.json, outputs.jsonl",
    )
    parser.add_argument("--out", type=path, default="report.html")
    parser.add_argument("--documents", type=path, metavar="DIR", help="document set, for the yield funnel")
    parser.add_argument("--certificate", type=path, metavar="FILE", help="certificate.json of a vocabulary expansion")
    parser.add_argument("--samples", type=path, metavar="FILE", help='JSON of generated texts: {"prompts": [...], RUN: [...]}')
