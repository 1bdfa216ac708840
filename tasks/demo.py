"""`maskmill demo`: the whole way on the bundled model and images, judged by their ground truth."""

from importlib import import_module
from pathlib import Path

from tasks.annotate import annotate, is_here
from tasks.progress import Said, say
from tasks.records import Selection
from tasks.wishes import Wishes

IMAGES = Path(__file__).resolve().parent.parent / "worker" / "demo"


def demo(output: str, as_json: bool) -> int | Said:
    runtime = "" if is_here("onnx") else "tflite"  # as on boards
    wishes = Wishes(model="shapes", output=output, runtime=runtime)
    truth = str(IMAGES / "instances.json")
    if code := say(annotate([truth], Selection(), wishes, as_json), as_json):
        return code
    next_steps = (
        f"\nLook at {output}/contact-sheet.jpg\n"
        "The bundled model knows these synthetic shapes only. Next, your own images:\n"
        "  maskmill annotate photos/ -m MODEL -o out   with a model of your own (see the README)\n"
        f"  maskmill doctor {output}                whether a job folder is sound\n"
        "  maskmill doctor                          what this machine can run"
    )
    judged: Said = import_module("worker.evaluate").evaluate(output, truth, next_steps)
    return judged
