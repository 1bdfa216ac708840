"""Train or fine-tune YOLACT on the CPU, on the synthetic shapes or any COCO instance file."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from augment import Augmentation
from batches import Batch, ahead, make_batch
from checkpoints import network_predictor, pack, read, save_atomically, start_from
from curve import draw_curve
from data import DataError, Dataset, Sample, load_dataset, split
from evaluate import average_precision, results
from losses import Weights, losses
from memory import keep_freed_memory
from network import EDGE, RESNET50, SHAPES, Yolact
from scenes import write_scenes
from torch import nn

NETWORKS = {"small": SHAPES, "edge": EDGE, "resnet50": RESNET50}
SHAPES_SCENES, SHAPES_SEED = 6000, 1


class TrainingStopped(Exception):
    """Why training cannot go on, in one sentence."""


@dataclass(frozen=True)
class Plan:
    """The settings of a run; a run that goes on must have the same."""

    steps: int  # 0: the minutes decide
    minutes: float
    batch: int
    rate: float
    warmup: int
    seed: int
    held_out: float
    validate_minutes: float
    validate_images: int
    flip_vertical: float
    average: float = 0.998  # decay of the averaged weights
    decay: float = 0.02

    def progress(self, step: int, elapsed: float) -> float:
        return step / self.steps if self.steps else elapsed / (60 * self.minutes)

    def rate_at(self, step: int, elapsed: float) -> float:
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress(step, elapsed))))
        return self.rate * min(1.0, (step + 1) / self.warmup) * (0.01 + 0.99 * wave)


@dataclass
class Run:
    """A network in training, and all that a checkpoint of it needs."""

    plan: Plan
    network: Yolact
    averaged: Yolact
    optimiser: torch.optim.Optimizer
    step: int = 0
    elapsed: float = 0.0
    best: float = -math.inf

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state["best"]


def begin(network: Yolact, plan: Plan) -> Run:
    network = network.to(memory_format=torch.channels_last)
    averaged = Yolact(network.config)
    averaged.load_state_dict(network.state_dict())
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan.decay}, {"params": vectors}]
    optimiser = torch.optim.AdamW(groups, lr=plan.rate, weight_decay=0.0, fused=True)
    return Run(plan, network, averaged, optimiser)


def train_step(run: Run, batch: Batch, rate: float) -> dict[str, float]:
    run.network.train()
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    images, truth = batch
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        raw = run.network(images.to(memory_format=torch.channels_last))
    parts = losses(raw, truth, run.network.priors, Weights())
    total = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(total):
        values = ", ".join(f"{name} {value.item():.3g}" for name, value in parts.items())
        raise TrainingStopped(
            f"The loss is no longer a number at step {run.step} ({values}); the last checkpoint is "
            "kept, and a lower --rate usually helps."
        )
    run.optimiser.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 10.0)
    run.optimiser.step()
    follow(run.averaged, run.network, min(run.plan.average, (1 + run.step) / (10 + run.step)))
    run.step += 1
    return {name: value.item() for name, value in parts.items()}


@torch.no_grad()
def follow(averaged: Yolact, network: Yolact, keep: float) -> None:
    """Move the averaged weights a little towards the network's."""
    old, new = averaged.state_dict(), network.state_dict()
    floats = [name for name, value in new.items() if value.is_floating_point()]
    torch._foreach_lerp_([old[n] for n in floats], [new[n] for n in floats], 1 - keep)


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; elsewhere autocast would only be slower."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported())


def fit(run: Run, dataset: Dataset, out: Path) -> None:
    """Train until the plan's end; `out` gets log.jsonl, curve.png, last.pt and best.pt."""
    plan = run.plan
    train, validation = split(dataset, plan.held_out, plan.seed)
    validation = validation[: plan.validate_images]
    how = Augmentation(flip_vertical=plan.flip_vertical)

    def make(step: int) -> Batch:
        return make_batch(dataset, train, step, plan.batch, plan.seed, how, run.network.config)

    began = time.monotonic() - run.elapsed
    last_check = run.elapsed
    window: list[dict[str, float]] = []
    with closing(ahead(make, run.step)) as batches:
        while plan.progress(run.step, run.elapsed) < 1:
            rate = plan.rate_at(run.step, run.elapsed)
            window.append(train_step(run, next(batches), rate))
            run.elapsed = time.monotonic() - began
            done = plan.progress(run.step, run.elapsed) >= 1
            if run.step % 20 == 0 or done:
                note(out, run, means(window), rate)
                window.clear()
            if done or run.elapsed - last_check > 60 * plan.validate_minutes:
                check(run, dataset, validation, out)
                run.elapsed = last_check = time.monotonic() - began


def check(run: Run, dataset: Dataset, samples: list[Sample], out: Path) -> None:
    """Judge the averaged weights, keep them if they are the best so far, write the checkpoint."""
    found = results(network_predictor(run.averaged), run.averaged.config.size, dataset, samples)
    scores = average_precision(dataset, samples, found)
    mean = (scores["box_ap"] + scores["mask_ap"]) / 2
    if mean > run.best:
        run.best = mean
        packed = pack(run.averaged.config, dataset.categories, run.averaged.state_dict())
        save_atomically(packed, out / "best.pt")
    save_atomically({"plan": asdict(run.plan), **run.state()}, out / "last.pt")
    note(out, run, scores, None)
    draw_curve(out / "log.jsonl", out / "curve.png")


def note(out: Path, run: Run, values: dict[str, float], rate: float | None) -> None:
    """One line of the log, to a file and to the terminal."""
    line: dict[str, Any] = {"step": run.step, "minutes": round(run.elapsed / 60, 3)}
    if rate is not None:
        line["rate"] = round(rate, 7)
    line |= {name: round(value, 4) for name, value in values.items()}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(" ".join(f"{name} {value}" for name, value in line.items()), flush=True)


def means(window: list[dict[str, float]]) -> dict[str, float]:
    names = window[0]
    values = {name: sum(parts[name] for parts in window) / len(window) for name in names}
    return {"loss": sum(values.values()), **values}


def resume(run: Run, out: Path) -> bool:
    """Go on from an interrupted run in `out`, if there is one."""
    checkpoint = out / "last.pt"
    if not checkpoint.exists():
        return False
    state = read(checkpoint)
    other = sorted(k for k, v in asdict(run.plan).items() if state["plan"].get(k) != v)
    if other:
        raise TrainingStopped(
            f"{out} holds a run with another {', '.join(other)}; give the same settings to go on, "
            "or another --out."
        )
    run.restore(state)
    log = out / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= run.step]
    partial = log.with_suffix(".partial")
    partial.write_text("".join(kept))
    os.replace(partial, log)
    return True


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shapes", action="store_true", help="draw the scenes and train on them")
    what.add_argument("--data", type=Path, help="COCO instance file")
    parser.add_argument("--images", type=Path, help="where its images are, if not beside it")
    parser.add_argument("--from", dest="source", type=Path, help="checkpoint to fine-tune")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--network", choices=NETWORKS, default="small", help="without --from")
    parser.add_argument("--minutes", type=float, default=54.0, help="length of the training")
    parser.add_argument("--steps", type=int, default=0, help="length in steps instead of minutes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=SHAPES_SCENES, help="drawn for --shapes")
    return parser.parse_args()


def plan_of(args: argparse.Namespace) -> Plan:
    return Plan(
        steps=args.steps,
        minutes=args.minutes,
        batch=args.batch,
        rate=args.rate or (1e-3 if args.source else 5e-3),
        warmup=50 if args.source else 200,
        seed=args.seed,
        held_out=0.03 if args.shapes else 0.15,
        validate_minutes=min(5.0, args.minutes / 4),
        validate_images=200,
        flip_vertical=0.5 if args.shapes else 0.0,
    )


def main() -> None:
    args = parse()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        data = args.data
        if args.shapes:
            data = args.out / "scenes" / "instances.json"
            if not data.exists():
                write_scenes(data.parent, args.scenes, SHAPES_SEED, jobs=os.cpu_count() or 1)
        dataset = load_dataset(data, args.images)
        if dataset.skipped:
            print(f"{dataset.skipped} annotations cover no pixel of their image and are left out.")
        config = replace(NETWORKS[args.network], classes=len(dataset.categories))
        network = start_from(args.source, dataset.categories) if args.source else Yolact(config)
        run = begin(network, plan_of(args))
        if resume(run, args.out):
            print(f"Going on from step {run.step}.")
        fit(run, dataset, args.out)
        print(f"Best validation mean AP {run.best:.4f}: {args.out / 'best.pt'}")
    except (DataError, TrainingStopped) as exc:
        raise SystemExit(str(exc)) from None


if __name__ == "__main__":
    main()
