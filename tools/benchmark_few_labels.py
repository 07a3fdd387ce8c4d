#!/usr/bin/env python3
"""How much does pretraining save where labels are few? The grid of a plan, run and reported.

    tools/benchmark_few_labels.py --config-file benchmarks/few_labels/spine.yaml \
        --data DATA --output OUTPUT --jobs 2

DATA holds the data set's folder. The same command goes on where it was stopped: a finished run is
never repeated. On a cluster, give each line that --list prints to the scheduler (the pretraining
runs, which come first, before the others); then the command with --report in place of --list.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from few_labels.bench import RESULT, Bench, Row, read_row
from few_labels.curves import with_iterations_to_scratch
from few_labels.plan import FINETUNE, PRETRAIN, TUNE, Plan, Run
from few_labels.plan_file import load_plan
from few_labels.plots import plot, plot_curves
from few_labels.pool import Pool
from few_labels.report import markdown, zoo_rows
from few_labels.run import execute, score_again, use_threads
from few_labels.tuning import tuning_markdown
from mrssl.errors import MrsslError, optional_import, run_main
from mrssl.evaluation import write_results
from mrssl.files import write_text

#: Files of the rows of each kind of run, in the output folder.
FILES = {FINETUNE: "results.json", PRETRAIN: "pretraining.json", TUNE: "tuning.json"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--config-file", required=True, type=Path, help="the plan, YAML")
    options.add_argument("--data", required=True, type=Path, help="folder of the data set's folder")
    options.add_argument("--output", required=True, type=Path, help="folder of the results")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options.add_argument("--threads", type=int, default=1, help="of each run")
    options.add_argument("--device", default="cuda", help="the CPU is taken where there is no CUDA")
    options.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="weights made elsewhere, in place of the pretraining of that name",
    )
    options.add_argument(
        "--rows",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a results.json, or the like, of another machine: its runs count as done here too",
    )
    options.add_argument("--arms", help="only these, A,B,...")
    options.add_argument("--labeled", help="only these numbers of labelled subjects, 1,2,...,all")
    options.add_argument("--seeds", help="only these, 0,1,...")
    options.add_argument("--keep-weights", action="store_true", help="of fine-tuned models")
    what = options.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print a command line a run that is left")
    what.add_argument("--run", metavar="ID", help="do this run only, in this process")
    what.add_argument(
        "--score-again",
        action="store_true",
        help="by the code as it is, finished runs whose weights were kept; then report",
    )
    what.add_argument("--report", action="store_true", help="on what is done, and run nothing")
    what.add_argument("--model-zoo", action="store_true", help="print rows for MODEL_ZOO.md")
    options.add_argument(
        "--tune", action="store_true", help="cross-validate the plan's grids in the training split"
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 where a run failed."""
    options = parser()
    args = options.parse_args(argv)
    if (args.report or args.run) and (args.arms or args.labeled or args.seeds):
        options.error("--report and --run take no --arms, --labeled or --seeds")
    if not (args.run or args.list or args.model_zoo):
        optional_import("matplotlib", "pip install matplotlib")  # for the report
    bench = _bench(args, load_plan(args.config_file))
    if args.run:
        use_threads(args.threads)
        execute(bench, _by_id(bench, args.run))
        return 0
    done = {kind: _rows(bench, kind) for kind in FILES}  # of another plan: refused before the work
    if args.model_zoo:
        _print_model_zoo(bench, args, done[FINETUNE])
        return 0
    if args.score_again:
        _score_again(bench, args)
        return 0
    if args.report:
        if not any(done.values()):
            raise MrsslError(f"{bench.output}: no run is done, and no --rows given")
        write_rows(bench)
        write_report(bench)
        return 0
    runs = _runs(bench, args)
    if args.list:
        for run in runs:
            if bench.finished(run) is None:
                print(shlex.join(["python", "tools/benchmark_few_labels.py", *_command(args, run)]))
        return 0

    def command(run: Run) -> list[str]:
        return [sys.executable, str(Path(__file__).resolve()), *_command(args, run)]

    pool = Pool(
        bench,
        command,
        jobs=args.jobs,
        threads=args.threads,
        report=lambda: write_rows(bench),
    )
    try:
        failed = pool.run(runs)
    finally:
        write_rows(bench)
        write_report(bench)
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _bench(args: argparse.Namespace, plan: Plan) -> Bench:
    files = {}
    for text in args.weights:
        name, _, file = text.partition("=")
        if not Path(file).is_file():
            raise MrsslError(f"--weights {text}: NAME=FILE is meant, and FILE must be there")
        files[name] = Path(file)
    own: dict[str, Row] = {}
    for path in filter(Path.is_file, (args.output / name for name in FILES.values())):
        own |= {row["id"]: row for row in _read_rows(path)}
    bench = Bench(
        plan, args.data, args.output, files, args.device, keep=args.keep_weights, known=own
    )
    others: dict[str, Row] = {}
    for path in args.rows:
        rows = _read_rows(path)
        _check_settings(bench, rows, path)
        others |= {row["id"]: row for row in rows}
    return replace(bench, known=others | own)


def _check_settings(bench: Bench, rows: Iterable[Row], path: Path) -> None:
    """See that rows are of the runs of this plan: none may slip into the report unlooked at.

    Raises:
        MrsslError: one is not.
    """
    rows = list(rows)
    # Runs of these kinds alone: where nothing is tuned, "tune" need not fit the subjects.
    kinds = {row["kind"] for row in rows}.intersection(FILES)
    runs = {run.id: run for kind in kinds for run in bench.runs(kind)}
    for row in rows:
        run = runs.get(row["id"])
        if run is None or not bench.is_current(run, row):
            raise MrsslError(
                f"{path}: {row['id']} is not of this plan, or was run with other settings; "
                "give another --output, or remove that run"
            )


def _read_rows(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [row for row in rows if row["id"] and row["kind"] and row["settings"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MrsslError(f"{path}: not the rows of this benchmark ({error!r})") from error


def _runs(bench: Bench, args: argparse.Namespace) -> list[Run]:
    """What the command line leaves of the plan: what is pretrained first, then what needs it."""
    runs = bench.runs(TUNE if args.tune else FINETUNE)
    chosen = list(_available(bench, _filtered(args, runs, bench.plan)))
    if not chosen:
        raise MrsslError("no run of the plan is left by --arms, --labeled, --seeds and --weights")
    left = [run for run in chosen if bench.finished(run) is None]
    needed = {bench.needs(run) for run in left}
    return [run for run in bench.runs(PRETRAIN) if run.id in needed] + chosen


def _score_again(bench: Bench, args: argparse.Namespace) -> None:
    runs = bench.runs(TUNE if args.tune else FINETUNE)
    try:
        for run in _filtered(args, runs, bench.plan):
            before = bench.finished(run)
            row = score_again(bench, run)
            if before is not None and row is not None:
                print(f"{run.id}: Dice {before['dice']:.3f} -> {row['dice']:.3f}", flush=True)
    finally:
        write_rows(bench)
        write_report(bench)


def _print_model_zoo(bench: Bench, args: argparse.Namespace, rows: Iterable[Row]) -> None:
    chosen = {run.id for run in _filtered(args, bench.runs(FINETUNE), bench.plan)}
    made_by = f"tools/benchmark_few_labels.py --config-file {args.config_file.as_posix()}"
    made_by += " --data DATA --output OUTPUT"
    made_by += f" --seeds {args.seeds}" if args.seeds else ""
    print(zoo_rows([row for row in rows if row["id"] in chosen], made_by))


def _filtered(args: argparse.Namespace, runs: Iterable[Run], plan: Plan) -> Iterator[Run]:
    arms, labeled, seeds = (
        None if value is None else value.split(",")
        for value in (args.arms, args.labeled, args.seeds)
    )
    for name in arms or []:
        if name not in plan.arms:
            raise MrsslError(f"--arms {name}: the plan has {', '.join(plan.arms)}")
    for run in runs:
        if arms is not None and run.arm.split(" ")[0] not in arms:
            continue
        if labeled is not None and run.labeled not in labeled:
            continue
        if seeds is None or str(run.seed) in seeds:
            yield run


def _available(bench: Bench, runs: Iterable[Run]) -> Iterator[Run]:
    """Leave out arms whose weights nobody made or gave, and say so once."""
    told = set()
    for run in runs:
        if not run.weights or run.needs or run.weights in bench.files or bench.finished(run):
            yield run
        elif run.weights not in told:
            told.add(run.weights)
            print(f"left out: {run.arm}, for want of --weights {run.weights}=FILE", file=sys.stderr)


def _by_id(bench: Bench, run_id: str) -> Run:
    for kind in FILES:
        if kind == TUNE and not run_id.startswith(f"{TUNE}/"):
            continue  # "tune" need not fit the subjects
        for run in bench.runs(kind):
            if run.id == run_id:
                return run
    raise MrsslError(f"--run {run_id}: no such run in the plan; --list names them")


def _command(args: argparse.Namespace, run: Run) -> list[str]:
    """The arguments that do one run."""
    arguments = ["--config-file", args.config_file, "--data", args.data, "--output", args.output]
    arguments += ["--device", args.device, "--threads", args.threads]
    for text in args.weights:
        arguments += ["--weights", text]
    arguments += ["--keep-weights"] if args.keep_weights else []
    return [*map(str, arguments), "--run", run.id]


def _rows(bench: Bench, kind: str) -> list[Row]:
    """Rows of all finished runs of a kind: of earlier reports, and of the runs' folders.

    Raises:
        MrsslError: one is not of this plan.
    """
    rows = {row["id"]: row for row in bench.known.values() if row["kind"] == kind}
    for path in sorted((bench.output / "runs").rglob(RESULT)):
        row = read_row(path)
        if row["kind"] == kind:
            rows[row["id"]] = row
    if not rows:
        return []
    _check_settings(bench, rows.values(), bench.output)
    order = {run.id: place for place, run in enumerate(bench.runs(kind))}
    return sorted(rows.values(), key=lambda row: order[row["id"]])


def write_rows(bench: Bench) -> None:
    """Gather the finished runs' rows in one file a kind."""
    for kind, name in FILES.items():
        rows = _rows(bench, kind)
        if kind == FINETUNE:
            rows = with_iterations_to_scratch(rows)
        if rows:
            write_results(rows, bench.output / name)


def write_report(bench: Bench) -> None:
    """Tables and plots of all finished runs."""
    rows = with_iterations_to_scratch(_rows(bench, FINETUNE))
    if rows:
        report = markdown(rows, _rows(bench, PRETRAIN), bench.plan.baselines)
        write_text(bench.output / "results.md", report)
        plot(rows, bench.output / "results.png")
        plot_curves(rows, bench.output / "curves.png")
    if tuned := _rows(bench, TUNE):
        write_text(bench.output / "tuning.md", tuning_markdown(tuned))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C: the runs are stopped, what is done is kept
    run_main(main)
