"""Generates what Width pruning shows before a visitor generates any: one scene, by every bundled file, at a few ratios.

run_to_completion(generate_examples("emoji-unet", FOLDER / "emoji-unet"))
"""

from collections.abc import Generator
from pathlib import Path

from explorer import experiment
from explorer.bundled import masks as bundled
from explorer.bundled.width_examples import TABLE, Example, ExamplePicture, Examples
from explorer.measures.table import METRICS
from explorer.models.catalogue import own_run
from explorer.progress import Progress
from explorer.sampling.generate import Frame

RATIOS = (0.1, 0.2, 0.3, 0.4)
SCENE = {"prompt": "octopus", "seed": 1, "steps": 25, "sampler": "ddim", "guidance": 7.5, "baseline_sampler": "unipc"}


def generate_examples(model_id: str, folder: Path) -> Generator[Progress, None, None]:
    """Generate the pictures of a model into `folder`, and then their table."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = SCENE | own_run(model_id)
    headers, files, original = bundled.width_headers(model_id), dict[str, tuple[Example, ...]](), None
    for number, (name, header) in enumerate(headers.items()):
        examples = []
        for ratio in (ratio for ratio in RATIOS if ratio <= header.max_ratio):
            yield Progress(number, len(headers), f"{model_id}: {name} at {ratio:.0%}")
            request = experiment.request_of_widths(model_id, header, ratio, **scene)
            frames = {frame.role: frame for frame in experiment.compare(request) if frame.done}
            original = original or _save(frames["original"], folder, "original")
            names = {role: f"{name}-{100 * ratio:.0f}-{role}" for role in ("pruned", "baseline")}
            saved = {role: _save(frames[role], folder, file) for role, file in names.items()}
            examples.append(Example(ratio=ratio, **saved))
        files[name] = tuple(examples)
    if original:
        table = Examples(original=original, files=files, **scene)
        (folder / TABLE).write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _save(frame: Frame, folder: Path, name: str) -> ExamplePicture:
    file = f"{name}.png"
    (folder / file).write_bytes(frame.picture or b"")
    ssim, psnr = (1.0, METRICS["psnr"].best) if frame.role == "original" else (frame.ssim, frame.psnr)
    return ExamplePicture(
        file=file, calls=frame.calls, ssim=round(float(ssim or 0), 5), psnr=round(float(psnr or 0), 4)
    )
