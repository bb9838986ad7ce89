"""What several tabs say of a file and of pictures, in words and as markup. Everything foreign is escaped."""

import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from html import escape

from explorer.drawing import Frame
from explorer.files import Origin
from explorer.sites import WidthHeader
from explorer.widths import Widths

NOTHING = "–"
OF = {"macs": "MACs", "params": "parameters", "channels": "channels"}
COUNT_EVERY = 0.3  # seconds; telling the browser of each call leaves it no time for a click on a slow machine
SETTINGS = 600  # letters of a file's settings that are shown


def title(header: WidthHeader) -> str:
    """What a file is, for the list of files."""
    config, name = header.pruner.config, header.pruner.name
    names = {
        "ecodiff": "EcoDiff",
        "taylor": "Diff-Pruning (Taylor)",
        "magnitude": "Magnitude",
        "random-widths": "Chance",
    }
    how = {"concrete": "as published", "worth": "ours"}.get(str(config.get("decision")), "")
    rows = "rows" if config.get("rows") else ""  # files from before there were any lack it
    threshold = config.get("threshold")
    floor = f"threshold {threshold:g}" if name == "taylor" and isinstance(threshold, int | float) else ""
    return ", ".join(part for part in (names.get(name, name), how, str(config.get("axis", "")), rows, floor) if part)


def origin(header: Origin, how: str) -> str:
    """Where a file comes from: by what, for what, when."""
    config = {name: value for name, value in header.pruner.config.items() if value is not None}
    settings = ", ".join(f"{name} {value}" for name, value in config.items())
    model = f"{header.model.id} ({header.model.denoiser}, weights {header.model.revision or 'unknown'})"
    asked, reached = header.ratio.asked, header.ratio.reached
    ratio = "any" if header.kind == "importance" else "by hand" if asked is None else f"{asked:.1%} asked"
    ratio += f", {reached:.1%} reached" if reached is not None else ""
    facts = {
        "from": how,
        "model": model,
        "method": header.pruner.name,
        "settings": settings[:SETTINGS],
        "ratio": f"{ratio} of the {OF[header.ratio.of]}; at most {header.max_ratio:.1%}",
        "made": f"{header.created:%d %b %Y, %H:%M}, with "
        + ", ".join(f"{name} {number}" for name, number in list(header.versions.items())[:6]),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f'<dl class="origin">{rows}</dl>'


def numbers(widths: Widths) -> str:
    """What is left, in tiles."""
    header = widths.header
    params, macs = widths.kept * header.params, widths.kept_macs * header.macs
    found = [
        ("removed", f"{1 - widths.kept:.1%}", f"of the parameters; at most {header.max_ratio:.1%} is possible"),
        ("parameters", f"{params / 1e6:.2f} M", f"of {header.params / 1e6:.2f} M; what goes: {widths.by_kind}"),
        (
            "memory",
            f"{params * 4 / 1e6:.1f} MB",
            f"of {header.params * 4 / 1e6:.1f}, in half precision {params * 2 / 1e6:.1f}",
        ),
        ("MACs of a call", f"{widths.kept_macs:.1%}", f"{macs / 1e9:.3g} of {header.macs / 1e9:.3g} G"),
        ("ideal speed", f"{1 / widths.kept_macs:.2f}×", "if time went with MACs; press Draw to measure"),
    ]
    return tiles(found)


def tiles(found: Iterable[tuple[str, str, str]]) -> str:
    """Name, value and note of each."""
    boxes = (f"<div><dt>{name}</dt><dd>{value}</dd><dd>{escape(note)}</dd></div>" for name, value, note in found)
    return f'<dl class="tiles">{"".join(boxes)}</dl>'


def cards(frames: Mapping[str, Frame], seen: Mapping[str, bytes], roles: Mapping[str, str]) -> str:
    """Pictures, as far as they have come; `roles` says which, and what they are called."""
    shown = (_card(role, escape(name), frames, seen.get(role)) for role, name in roles.items())
    return f'<div class="strip{" four" if len(roles) > 3 else ""}">{"".join(shown)}</div>'


def _card(role: str, name: str, frames: Mapping[str, Frame], picture: bytes | None) -> str:
    frame, whole = frames.get(role), frames.get("original")
    image = f'<img alt="{name}" src="data:image/png;base64,{b64encode(picture).decode()}" />' if picture else ""
    calls = f"{frame.call} of {frame.calls} calls" if frame else "waits" if frames else "Press Draw"
    seconds = f"{frame.seconds:.2f}" if frame else NOTHING
    if frame and frame.done and role != "original" and whole:
        seconds += f" ({whole.seconds / frame.seconds:.2f}×)"
    ssim = NOTHING if frame is None or frame.ssim is None else f"{frame.ssim:.3f}"
    facts = (("seconds", seconds), ("SSIM", ssim))
    told = "".join(f"<dt>{fact}</dt><dd>{value}</dd>" for fact, value in facts)
    frame_class = "frame" if picture else "frame noise"
    return (
        f'<figure class="card"><div class="{frame_class}">{image}</div><figcaption><h2>{name}</h2><p>{calls}</p>'
        f"<dl>{told}</dl></figcaption></figure>"
    )


def spaced(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames that the browser is told of: all that bring something to see, and some of those that only count."""
    told = 0.0
    for frame in frames:
        if frame.picture or frame.done or time.monotonic() - told > COUNT_EVERY:
            told = time.monotonic()
            yield frame
