"""What several tabs show of files and pictures, as markup. Everything foreign is escaped."""

import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from types import MappingProxyType

from explorer.masks.file_format import FileHeader
from explorer.masks.width import Widths
from explorer.masks.width_header import WidthHeader, kind_title
from explorer.measures.table import METRICS
from explorer.pruners import is_published, method_title
from explorer.sampling.generate import Frame

RATIO_OF = {"macs": "MACs", "params": "parameters", "channels": "channels"}
MIN_OF_IDEAL, MAX_OF_IDEAL = 0.5, 1.5  # a measured speed beyond or below is not what pruning saves
MAX_SETTINGS = 600  # characters of a file's settings that are shown
COUNT_EVERY_S = 0.3  # reporting every call would leave the browser no time for clicks on a slow machine
ALGORITHMS = {"hard_concrete": "as published", "gauss_newton": "our variant"}


def percent(share: float, digits: int = 1) -> str:
    """Write a share as the page's scripts do, 12.5 %."""
    return f"{100 * share:.{digits}f} %"


def data_url(png: bytes) -> str:
    """Write a PNG as an address that holds it."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def width_title(header: WidthHeader, with_threshold: bool = True) -> str:
    """Name a file of widths, for lists; `with_threshold`: Diff-Pruning's, by which some files differ alone."""
    config, name = header.pruner.config, header.pruner.name
    threshold = config.get("threshold") if with_threshold and name == "taylor" else None
    parts = (
        method_title(name),
        ALGORITHMS.get(str(config.get("algorithm")), ""),
        str(config.get("axis", "")),
        "AdaLN channels" if config.get("prune_adaln") else "",  # missing in files of early versions
        f"threshold {threshold:g}" if isinstance(threshold, int | float) else "",
    )
    return ", ".join(part for part in parts if part)


def provenance(header: FileHeader, source: str) -> str:
    """List where a file comes from: by which method, for which model, when."""
    config = {name: value for name, value in header.pruner.config.items() if value is not None}
    settings = ", ".join(f"{name} {value}" for name, value in config.items())
    model = f"{header.model.id} ({header.model.denoiser}, weights {header.model.revision or 'unknown'})"
    asked, reached = header.ratio.asked, header.ratio.reached
    by = "as published" if is_published(header.pruner.name) else "set by hand"
    ratio = "any" if header.kind == "importance" else by if asked is None else f"{percent(asked)} asked"
    ratio += f", {percent(reached)} reached" if reached is not None else ""
    versions = ", ".join(f"{name} {number}" for name, number in list(header.versions.items())[:6])
    facts = {
        "source": source,
        "model": model,
        "method": header.pruner.name,
        "edited from" if header.pruner.name == "manual" else "settings": settings[:MAX_SETTINGS],
        "ratio": f"{ratio} of the {RATIO_OF[header.ratio.of]}; at most {percent(header.max_ratio)}",
        "made": f"{header.created:%d %b %Y, %H:%M}, with {versions}",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f'<dl class="provenance">{rows}</dl>'


def width_tiles(widths: Widths) -> str:
    """Show what is left of a network, in tiles."""
    header = widths.header
    params, macs = widths.params_fraction * header.params, widths.macs_fraction * header.macs
    removed = f"of the parameters; at most {percent(header.max_ratio)} is possible"
    by_kind = ", ".join(f"{kind_title(kind)} {count:,}" for kind, count in widths.removed_by_kind.items())
    kinds = f"of {header.params / 1e6:.2f} M; removed: {by_kind}"
    memory = f"of {header.params * 4 / 1e6:.1f}, in half precision {params * 2 / 1e6:.1f}"
    return tiles(
        [
            ("removed", percent(1 - widths.params_fraction), removed),
            ("parameters", f"{params / 1e6:.2f} M", kinds),
            ("memory", f"{params * 4 / 1e6:.1f} MB", memory),
            ("MACs per call", percent(widths.macs_fraction), f"{macs / 1e9:.3g} of {header.macs / 1e9:.3g} G"),
            ("ideal speed", f"{1 / widths.macs_fraction:.2f}×", "if time followed MACs; press Generate to measure"),
        ]
    )


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Show name, value and note of each."""
    boxes = (f"<div><dt>{name}</dt><dd>{value}</dd><dd>{escape(note)}</dd></div>" for name, value, note in rows)
    return f'<dl class="tiles">{"".join(boxes)}</dl>'


def cards(
    frames: Mapping[str, Frame],
    pictures: Mapping[str, bytes],
    titles: Mapping[str, str],
    kept: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """Show pictures, finished or not; `titles`: role -> what it is called, `kept`: role -> its share of the MACs."""
    shown = (
        _card(role, escape(title), frames, pictures.get(role), kept.get(role, 0.0)) for role, title in titles.items()
    )
    return f'<div class="cards{" four" if len(titles) > 3 else ""}">{"".join(shown)}</div>'


def _speed(frame: Frame, original: Frame, kept: float) -> str:
    """Say how much faster a picture was than the full run, next to the most that its share of the MACs can bring; what
    is far from that tells of a busy machine."""
    speed, ideal = original.seconds / frame.seconds, 1 / (kept or frame.calls / original.calls)
    if not MIN_OF_IDEAL < speed / ideal < MAX_OF_IDEAL:
        return f"ideal {ideal:.2f}×, the machine is busy"
    return f"{speed:.2f}×, ideal {ideal:.2f}×"


def _card(role: str, title: str, frames: Mapping[str, Frame], picture: bytes | None, kept: float) -> str:
    frame, original = frames.get(role), frames.get("original")
    image = f'<img alt="{title}" src="{data_url(picture)}" />' if picture else ""
    calls = f"{frame.call} of {frame.calls} calls" if frame else "waits" if frames else "Press Generate"
    seconds = f"{frame.seconds:.2f}" if frame and frame.seconds else "–"
    if frame and frame.done and frame.seconds and role != "original" and original:
        seconds += f" ({_speed(frame, original, kept)})"
    ssim = METRICS["ssim"]
    facts = (("seconds", seconds), (ssim.label, ssim.format(frame.ssim if frame else None)))
    rows = "".join(f"<dt>{fact}</dt><dd>{value}</dd>" for fact, value in facts)
    frame_class = "frame" if picture else "frame noise"
    measured = ""  # which the report reads
    if frame and frame.done:
        measured = f' data-seconds="{frame.seconds:.4f}" data-psnr="{"" if frame.psnr is None else frame.psnr}"'
    return (
        f'<figure class="card" data-role="{escape(role)}"{measured}>'
        f'<div class="{frame_class}">{image}</div><figcaption><h2>{title}</h2><p>{calls}</p>'
        f"<dl>{rows}</dl></figcaption></figure>"
    )


def throttle(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the frames that are sent to the browser: all with something to see, and some of those that only count."""
    sent = 0.0
    for frame in frames:
        if frame.picture or frame.done or time.monotonic() - sent > COUNT_EVERY_S:
            sent = time.monotonic()
            yield frame
