#!/usr/bin/env python3
"""The whole chain on one volume that is already on disk, in minutes on two cores.

Pretrain on slices of the ICBM 152 template without labels; fine-tune on a handful of labelled
slices, from scratch and from the pretrained weights; score both on other slices; export; report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import demo_pictures
from demo_data import DemoData, write_demo_data
from demo_report import CAVEAT, Report, Run, curves, loss_names, metric_rows, picture_grid
from mrssl.errors import MrsslError, run_main
from mrssl.evaluation import get_metric

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = ROOT / "configs" / "pretrain" / "distortion_R_18_FPN_small.yaml"
FINETUNE = ROOT / "configs" / "finetune" / "mask_R_18_FPN_small.yaml"
MARKER = ".mrssl-demo"  # a folder that this program made before, it may fill again
PARTS = ("pretrain", "scratch", "pretrained")
MINUTES = 12  # promised on two cores

COMMON = {
    "MRSSL.DATA.SLICE_AXIS": "W",  # axial: the voxels are cubes, no axis stands out
    "MRSSL.DATA.NEIGHBOR_STEP": "0",  # a labelled slice has no neighbours
    "INPUT.MIN_SIZE_TRAIN": "(0,)",  # as they are: smaller than the configurations' slices
    "INPUT.MIN_SIZE_TEST": "0",
    "SEED": "0",
}
#: Few enough types to tell apart after minutes; the whole registry is the default elsewhere.
DISTORTIONS = (
    "gaussian_blur",
    "ghosting",
    "inpainting",
    "intensity_curve",
    "local_shuffle",
    "low_resolution",
    "patch_swap",
    "rician_noise",
)
PRETRAIN_ONLY = {"MRSSL.PRETEXT.DISTORTIONS": repr(DISTORTIONS)}
FINETUNE_ONLY = {"SOLVER.IMS_PER_BATCH": "4"}  # of five labelled slices
PRETEXT_METRICS = {
    "localisation AP50": ("localization", "AP50"),
    "type mAP": ("type", "mAP"),
    "PSNR distorted, dB": ("restoration", "PSNR-distorted"),
    "PSNR restored, dB": ("restoration", "PSNR"),
    "SSIM distorted": ("restoration", "SSIM-distorted"),
    "SSIM restored": ("restoration", "SSIM"),
}
TASK_METRICS = {
    "Dice": ("dice", "dice"),
    "HD95, mm": ("hd95", "hd95"),
    "ASSD, mm": ("assd", "assd"),
    "mask AP": ("segm", "AP"),
    "box AP": ("bbox", "AP"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to write")
    options.add_argument("--pretrain-iterations", type=int, default=300)
    options.add_argument("--finetune-iterations", type=int, default=200)
    return options


class Demo:
    """Runs the steps, says where it is, and keeps the times.

    Args:
        folder: where everything is written.
        steps: how many steps there will be.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.step = 0
        self.start = time.monotonic()

    def announce(self, text: str) -> None:
        """Say which step begins."""
        self.step += 1
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        print(f"\n[{minutes:2d}:{seconds:02d}] {self.step}/{self.steps} {text}", flush=True)

    def train(self, title: str, config: Path, overrides: Mapping[str, str]) -> Run:
        """Train and score in a process of its own, its progress on this terminal.

        Raises:
            MrsslError: the training failed; its own message stands above.
        """
        folder = Path(overrides["OUTPUT_DIR"])
        begun = time.monotonic()
        arguments = ["--config-file", str(config), "--engine", "torchvision", *_flat(overrides)]
        command(["tools/train_net.py", *arguments])
        results = json.loads((folder / "inference" / "results.json").read_text(encoding="utf-8"))
        return Run(title, folder, results, time.monotonic() - begun)


def command(arguments: Sequence[str]) -> None:
    """Run one of the tools as a user would, and print the command first.

    Raises:
        MrsslError: it failed.
    """
    print("$ python " + shlex.join(arguments), flush=True)
    tool, *rest = arguments
    done = subprocess.run([sys.executable, str(ROOT / tool), *rest])
    if done.returncode:
        raise MrsslError(f"{tool} failed (status {done.returncode}); its message stands above")


def _flat(overrides: Mapping[str, str]) -> list[str]:
    return [part for pair in overrides.items() for part in pair]


def prepare_folder(folder: Path) -> None:
    """Make ``folder``, or take it over where an earlier demonstration made it.

    Raises:
        MrsslError: it holds something else, or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise MrsslError(f"{folder}: not empty, and not from an earlier demonstration")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        for part in PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
    except OSError as error:
        raise MrsslError(f"{folder}: cannot be written ({error.strerror})") from error


def run_overrides(folder: Path, train: str, test: str, iterations: int) -> dict[str, str]:
    """The keys that a run of the demonstration sets beside its configuration."""
    return {
        **COMMON,
        "DATASETS.TRAIN": repr((train,)),
        "DATASETS.TEST": repr((test,)),
        "SOLVER.MAX_ITER": str(iterations),
        "SOLVER.WARMUP_ITERS": str(max(iterations // 10, 1)),
        "SOLVER.CHECKPOINT_PERIOD": str(iterations),
        "TEST.EVAL_PERIOD": str(max(iterations // 3, 1)),
        "OUTPUT_DIR": str(folder),
    }


def export_all(checkpoint: Path, folder: Path) -> list[Path]:
    """Export the fine-tuned detector for programs without mrssl, whole and its backbone."""
    made = []
    for library, scope in (("detectron2", "detector"), ("torchvision", "backbone")):
        made.append(folder / f"{library}_{scope}.pth")
        target = ["--to", library, "--scope", scope, "--output", str(made[-1])]
        command(["tools/export_checkpoint.py", str(checkpoint), *target])
    return made


def machine() -> str:
    """What this ran on, in a line."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def write_report(
    path: Path,
    *,
    data: DemoData,
    pretraining: Run,
    runs: Mapping[str, Run],
    overrides: Mapping[str, Mapping[str, str]],
    exported: Sequence[Path],
) -> None:
    """Tables, curves and pictures of everything that the steps before left on disk."""
    report = Report("mrssl: the whole chain on one volume")
    report.text(CAVEAT, "caveat")
    report.text(machine(), "note")
    counts = data.slices
    report.text(
        f"The brain's axial slices were cut into slabs with gaps between them: "
        f"{counts['unlabeled']} slices to pretrain on without labels, {counts['labeled']} of them "
        f"labelled to fine-tune on, {counts['scored']} in slabs of their own to score on. The "
        "label is white matter, from the template's tissue map."
    )

    report.heading("The pretext: slices distorted at random")
    seen = _flat(overrides["pretrain"])
    samples, described = demo_pictures.seen_samples(PRETRAIN, seen, 5)
    names = described.type_names
    rows = demo_pictures.distortion_rows(samples, names)
    titles = ["clean", "distorted", "where, and by what"]
    report.figure(picture_grid(titles, rows), "Slices, and what was done to them")

    report.heading("Pretraining: find, name, restore")
    report.table(["", *PRETEXT_METRICS], metric_rows([pretraining], PRETEXT_METRICS))
    report.text("On the scored slabs, distorted anew; PSNR and SSIM inside the regions.", "note")
    losses = loss_names(pretraining)
    report.figure(curves([pretraining], losses, "loss"), "Losses of pretraining")
    checkpoint = pretraining.folder / "model_final.pth"
    found = demo_pictures.predictions(checkpoint, samples, described)
    rows = demo_pictures.restoration_rows(samples, found, names)
    titles = ["distorted", "found and named", "restored", "clean"]
    report.figure(picture_grid(titles, rows), "What the pretrained detector makes of them")

    report.heading(f"Fine-tuning on {counts['labeled']} labelled slices")
    both = list(runs.values())
    report.table(["", *TASK_METRICS], metric_rows(both, TASK_METRICS))
    report.text("Means over the scored slabs. Equal schedules, one seed.", "note")
    report.figure(curves(both, ["total_loss"], "total loss"), "Loss of fine-tuning")
    report.figure(curves(both, ["dice/dice"], "Dice"), "Dice on the scored slabs while training")
    samples, described = demo_pictures.seen_samples(FINETUNE, _flat(overrides["scratch"]), 4)
    outputs = [
        demo_pictures.predictions(run.folder / "model_final.pth", samples, described)
        for run in both
    ]
    rows = demo_pictures.segmentation_rows(samples, outputs)
    titles = ["slice", "labels", *(run.title for run in both)]
    report.figure(picture_grid(titles, rows), "Scored slices, and what both detectors found")

    report.heading("What is left on disk")
    files = [checkpoint, *(run.folder / "model_final.pth" for run in both), *exported]
    report.listing("\n".join(str(file.relative_to(path.parent)) for file in files))
    report.table(
        ["step", "seconds"], [[run.title, round(run.seconds)] for run in (pretraining, *both)]
    )
    report.write(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps one after another."""
    args = parser().parse_args(arguments)
    folder: Path = args.output
    prepare_folder(folder)
    demo = Demo(folder, steps=6)
    print(f"{CAVEAT}\nAt most {MINUTES} minutes on two cores.")

    demo.announce("cut the ICBM 152 template into slabs")
    data = write_demo_data(folder / "data")
    print(", ".join(f"{count} slices {name}" for name, count in data.slices.items()))

    count, fewer = args.pretrain_iterations, args.finetune_iterations
    overrides = {
        name: run_overrides(folder / name, train, data.scored, iterations) | special
        for name, train, iterations, special in (
            ("pretrain", data.unlabeled, count, PRETRAIN_ONLY),
            ("scratch", data.labeled, fewer, FINETUNE_ONLY),
            ("pretrained", data.labeled, fewer, FINETUNE_ONLY),
        )
    }
    overrides["pretrained"]["MODEL.WEIGHTS"] = str(folder / "pretrain" / "model_final.pth")

    demo.announce("pretrain: find, name and restore distortions, without labels")
    pretraining = demo.train("pretraining", PRETRAIN, overrides["pretrain"])
    runs = {}
    for name, title in (("scratch", "from scratch"), ("pretrained", "from pretrained weights")):
        demo.announce(f"fine-tune on {data.slices['labeled']} labelled slices, {title}")
        runs[name] = demo.train(title, FINETUNE, overrides[name])

    demo.announce("export the detector for programs without mrssl")
    exported = export_all(folder / "pretrained" / "model_final.pth", folder)

    demo.announce("write the report")
    report = folder / "report.html"
    write_report(
        report,
        data=data,
        pretraining=pretraining,
        runs=runs,
        overrides=overrides,
        exported=exported,
    )
    minutes, seconds = divmod(round(time.monotonic() - demo.start), 60)
    dice = ", ".join(f"{r.title}: {get_metric(r.results, 'dice/dice'):.3f}" for r in runs.values())
    print(f"\nDice on the scored slabs: {dice}. One subject: a demonstration, no evidence.")
    print(f"{report} after {minutes} min {seconds} s")


if __name__ == "__main__":
    run_main(main)
