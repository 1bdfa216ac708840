"""A YOLACT graph as int8 TFLite, and that compiled for the Ethos-U65, each with its card.

int8 levels go in; boxes, scores, masks and proto come out, in float32. All is int8 in between but
the decoding of the boxes (with --whole also that, as in NXP's recipe).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # maskmill's own cards and preprocessing
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import npu  # noqa: E402
import onnx  # noqa: E402
import pictures  # noqa: E402
from graphs import RecipeError, cut, normalise_inside, read, runner  # noqa: E402

from tasks.cards import Build, Card, InputSpec, ModelError, read_card  # noqa: E402

TORCH = ROOT / ".venv-recipe" / "bin" / "python"
ORIGINALS = ROOT / "deploy" / "recipes" / "yolact-resnet50"
BACKBONES = ("mobilenetv2", "resnet50", "resnet101")
RANDOM_SEED = 3
# onnx2tf tries a graph on this file of its working directory, and fetches it where there is none.
TRIAL = "calibration_image_sample_data_20x128x128x3_float32.npy"
SAME = 1e-3  # of an output's range, between the ONNX and the TFLite before it is quantised


def from_weights(weights: str, backbone: str, out: Path, any_weights: bool) -> Path:
    """The card of the authors' network, written by the sibling recipe in its own environment."""
    if not TORCH.is_file():
        raise RecipeError(f"{weights} wants PyTorch: run make recipe-setup first")
    command = [str(TORCH), "convert.py", "--backbone", backbone, "--out", str(out.resolve())]
    if weights == "random":
        command += ["--random", str(RANDOM_SEED)]
    else:
        command += [str(Path(weights).resolve()), *(["--any-weights"] if any_weights else [])]
    if subprocess.run(command, cwd=ORIGINALS, check=False).returncode:
        raise RecipeError(f"{weights} was not converted to ONNX")
    return out / f"yolact-{backbone}.toml"


def find_graph(model: Path, card_path: Path | None) -> tuple[Path, Path, Card, Build]:
    """The ONNX, its card's file, the card and the build."""
    if model.suffix == ".toml":
        card_path, wanted = model, None
    else:
        card_path, wanted = card_path or model.with_suffix(".toml"), model.name
    card = read_card(card_path)
    graphs = [each for each in card.builds if each.file.endswith(".onnx")]
    build = next((each for each in graphs if each.file == wanted), graphs[0] if graphs else None)
    if card.family != "yolact" or build is None:
        raise RecipeError(f"{card_path} is not of a YOLACT with an ONNX build")
    return (card_path.with_name(build.file) if wanted is None else model), card_path, card, build


def to_tensorflow(model: onnx.ModelProto, folder: Path, picture: np.ndarray) -> Path:
    """A saved model that computes what the ONNX computes, which is tried on the picture."""
    onnx.save(model, folder / "graph.onnx")
    np.save(folder / TRIAL, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
    command = [sys.executable, "-m", "onnx2tf", "-i", "graph.onnx", "-o", "saved", "-osd", "-n"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    saved = folder / "saved"
    if ran.returncode or not saved.is_dir():
        said = (ran.stdout + ran.stderr).strip().splitlines()[-1:]
        raise RecipeError(f"onnx2tf does not take the graph: {' '.join(said)}")
    check_same(runner(model)(picture), run_saved(saved, picture))
    return saved


def run_saved(saved: Path, picture: np.ndarray) -> list[np.ndarray]:
    """The outputs, in the order of the ONNX."""
    import tensorflow as tf

    run = tf.saved_model.load(str(saved)).signatures["serving_default"]
    (name,) = run.structured_input_signature[1]
    found = run(**{name: tf.constant(picture[np.newaxis])})
    return [found[f"output_{place}"].numpy() for place in range(len(found))]


def check_same(wanted: dict[str, np.ndarray], got: list[np.ndarray]) -> None:
    """onnx2tf guesses which axes are channels; a wrong guess may have the right shape."""
    for (name, value), other in zip(wanted.items(), got, strict=True):
        reach = float(np.abs(value).max())
        far = float(np.abs(value - other).max()) if other.shape == value.shape else np.inf
        if not far <= SAME * reach:
            raise RecipeError(
                f"the TFLite graph's {name} differs from the ONNX's by {far:.2g} of {reach:.2g}, "
                "before any quantisation: onnx2tf has mistaken an axis"
            )
        print(f"{name}: TFLite in float32 within {far:.1e} of the ONNX, range {reach:.3g}")


def quantise(saved: Path, calibration: list[np.ndarray], weights: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([each[np.newaxis]] for each in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.float32
    converter._experimental_disable_per_channel = weights == "per-tensor"
    return bytes(converter.convert())


def card_text(source: str, spec: InputSpec, graph: Path) -> str:
    """The card that the graph came with, and this graph as its one build."""
    sha256 = hashlib.sha256(graph.read_bytes()).hexdigest()
    lines = [source.partition("[[builds]]")[0].rstrip(), "", "[[builds]]"]
    lines += [f'file = "{graph.name}"', 'precision = "int8"', f'sha256 = "{sha256}"']
    # In place of the card's: mean and std are in the graph, and so is the size.
    lines.append(f'input = {{ fit = "{spec.fit}", color = "{spec.color}" }}')
    return "\n".join(lines) + "\n"


def convert(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    source = Path(args.model)
    if args.model == "random" or source.suffix == ".pth":
        source = from_weights(args.model, args.backbone, args.out, args.any_weights)
    path, card_path, card, build = find_graph(source, args.card)
    spec = build.input or card.input
    name = args.name or f"{path.stem}-int8"
    chosen = pictures.choose(args.images, args.coco, args.count, args.seed)
    model, input_hw = read(path)
    calibration = list(pictures.levels(chosen, spec, input_hw))
    normalise_inside(model, spec)
    first, second = calibration[:2]
    part = None if args.whole else cut(model, card, args.softmax == "float", first, second)
    with TemporaryDirectory(dir=args.out, prefix=".partial-") as partial:
        folder = Path(partial)
        saved = to_tensorflow(model if part is None else part.model, folder, first)
        quantised = quantise(saved, calibration, args.weights)
        graph = folder / f"{name}.tflite"
        if part is not None:
            from tails import (
                with_tail,
            )  # TensorFlow is slow to import, and a sentence need not wait

            quantised = with_tail(quantised, part)
        graph.write_bytes(quantised)
        compiled, report = npu.compile_for_npu(graph, folder)
        made = [graph, compiled]
        for each in (graph, compiled):
            text = card_text(card_path.read_text("utf-8"), spec, each)
            made.append(each.with_suffix(".toml"))
            made[-1].write_text(text, "utf-8")
            read_card(made[-1])
        made.append(folder / f"{name}.vela.json")
        made[-1].write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        for each in made:
            print(f"{args.out / each.name}: {each.stat().st_size:,} bytes")
            each.replace(args.out / each.name)
    print(
        f"Ethos-U65: {report['npu_share']:.1%} of the operators, {report['cpu_operators']} stay on"
        f" the CPU; {report['estimated_ms']} ms without them by Vela's estimate"
    )


def at_least_two(text: str) -> int:
    """A number of pictures: two of them tell the priors."""
    if int(text) < 2:
        raise ValueError(text)
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", help="an ONNX, its card (.toml), the authors' weights (.pth), or the word random"
    )
    parser.add_argument("--card", type=Path, help="of an ONNX that has none beside it")
    parser.add_argument(
        "--backbone", choices=BACKBONES, default=BACKBONES[0], help="of a .pth or of random weights"
    )
    parser.add_argument("--any-weights", action="store_true", help="also others than the published")
    parser.add_argument("--images", type=Path, help="a folder of pictures to calibrate with")
    parser.add_argument("--coco", type=Path, help="or a COCO file, of images there or beside it")
    parser.add_argument("--count", type=at_least_two, default=100, help="of the pictures (100)")
    parser.add_argument("--seed", type=int, default=1, help="of their choice (1)")
    parser.add_argument("--weights", choices=("per-channel", "per-tensor"), default="per-channel")
    parser.add_argument("--softmax", choices=("int8", "float"), default="int8")
    parser.add_argument("--whole", action="store_true", help="the boxes' decoding in int8 too")
    parser.add_argument("--name", help="of the files (the ONNX's, with -int8)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    begun = time.monotonic()
    try:
        convert(parser.parse_args())
    except (RecipeError, ModelError, pictures.PicturesError, npu.VelaError) as exc:
        raise SystemExit(f"{exc}.") from None
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
