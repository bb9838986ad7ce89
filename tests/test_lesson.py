"""What the SuperNet tab teaches with: its pictures and numbers are those of the model, its texts are whole."""

import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from explorer import experiment
from explorer.bundled import gallery, lesson
from explorer.masks.block_graph import BlockGraph
from explorer.masks.encoding import decode_bits, encode_bits
from explorer.models import catalogue
from explorer.ui.components import STATIC
from explorer.ui.tabs.supernet import draw

SCRIPTS = STATIC / "supernet"
TEXTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in SCRIPTS.glob("??.json")}
TABLE = json.loads((lesson.FOLDER / lesson.TABLE).read_text(encoding="utf-8"))
TILE, ACROSS = 64, 32
MAX_BYTES = 3 * 2**20  # of a lesson, until its first picture is there


def keep_of(choice: tuple[int, ...]) -> np.ndarray:
    levels = np.array(TABLE["levels"], dtype=bool)
    return np.stack([levels[-1], *(levels[level] for level in choice)])


def number_of(choice: tuple[int, ...]) -> int:
    return int("".join(map(str, choice)), len(TABLE["levels"]))


@pytest.mark.parametrize(
    ("scene", "choice"), [(0, (4, 4, 4, 4)), (0, (0, 3, 1, 4)), (1, (4, 0, 0, 2)), (2, (1, 1, 4, 1))]
)
def test_prepared_pictures_are_what_the_model_draws(scene: int, choice: tuple[int, ...]):
    own = TABLE["scenes"][scene]
    values = lesson.request_values(own["prompt"], own["seed"], encode_bits(keep_of(choice)))
    request = experiment.ExperimentRequest(**values)
    *_, frame = (one for one in experiment.compare(request, with_baseline=False) if one.role == "pruned")
    assert frame.psnr is not None and abs(frame.psnr - own["psnr"][number_of(choice)]) < 0.05
    shorter = sum(len(TABLE["levels"]) ** call for call in range(len(choice)))
    top, left = divmod(shorter + number_of(choice), ACROSS)
    sheet = Image.open(lesson.FOLDER / lesson.SHEET.format(**{k: own[k] for k in ("prompt", "seed")}, part="subnets"))
    tile = sheet.convert("RGB").crop((TILE * left, TILE * top, TILE * (left + 1), TILE * (top + 1)))
    drawn = np.asarray(Image.open(BytesIO(frame.picture)).convert("RGB"), dtype=float)
    assert np.abs(np.asarray(tile, dtype=float) - drawn).mean() < 5  # the sheet is lossy


def test_levels_are_closed_and_the_graph_is_the_models():
    graph = catalogue.load("emoji-unet").graph("stage")
    assert TABLE["graph"]["units"] == [unit.model_dump(mode="json") for unit in graph.units]
    levels = np.array(TABLE["levels"], dtype=bool)
    for level in levels:
        keep = np.stack([levels[-1], level])
        assert (graph.close(keep) == keep).all()
    assert [int(level.sum()) for level in levels] == sorted(int(level.sum()) for level in levels)


def test_rivals_stay_within_their_budgets_and_none_is_ahead_of_the_best_cut():
    graph: BlockGraph = catalogue.load("emoji-unet").graph("stage")
    for table in TABLE["rivals"]:
        results = table["results"]
        for name, result in results.items():
            assert result["kept"] <= table["budget"] + 1e-6, name
            if "keep" in result:
                keep = decode_bits(result["keep"], (TABLE["steps"], len(graph.units)))
                share = graph.cost(keep).sum() / (graph.macs_per_call * len(keep))
                assert share == pytest.approx(result["kept"], abs=1e-4)
        cuts = [results[name]["psnr"] for name in ("best", "calls", "deepcache") if name in results]
        assert max(cuts) == results["best"]["psnr"]


def test_the_path_of_held_calls_ends_as_close_as_the_prepared_picture():
    for made, run in TABLE["path"]["runs"]["0"].items():
        choice = tuple(4 if bit == "1" else 0 for bit in made[1:])
        assert run["psnr"] == pytest.approx(TABLE["scenes"][0]["psnr"][number_of(choice)], abs=0.05)
        assert len(run["points"]) == TABLE["steps"]


def test_the_recorded_search_ends_in_a_closed_order():
    rank = np.array(TABLE["search"]["rank"])
    graph = catalogue.load("emoji-unet").graph("stage")
    for first in range(rank.size - len(graph.units)):
        assert (graph.close(rank >= first) == (rank >= first)).all()
    assert len(TABLE["search"]["scores"]) == len(TABLE["search"]["metrics"])


@pytest.mark.parametrize("language", TEXTS)
def test_texts_are_whole_in_every_language(language: str):
    texts, english = TEXTS[language], TEXTS["en"]
    for part in ("words", "terms", "glossary"):
        assert texts[part].keys() == english[part].keys()
    assert set(texts["terms"]) <= set(texts["glossary"]) and len(texts["goals"]) == len(english["goals"])
    assert len(texts["summary"]) == len(english["summary"])
    assert [scene["id"] for scene in texts["scenes"]] == [scene["id"] for scene in english["scenes"]]
    for own, other in zip(texts["scenes"], english["scenes"], strict=True):
        assert own.keys() == other.keys() and own["right"] == other["right"]
        assert len(own["answers"]) == len(other["answers"])
        for term in re.findall(r"\[\[([^\]|]+)", own["sentence"] + own["task"] + own["question"]):
            assert term in texts["glossary"], term
    for word, sentence in texts["words"].items():
        assert set(re.findall(r"{(\w+)}", sentence)) == set(re.findall(r"{(\w+)}", english["words"][word])), word


def test_every_word_of_the_scripts_is_in_the_texts_and_none_is_left_over():
    code = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.js"))
    words = TEXTS["en"]["words"]
    assert set(re.findall(r'say\("(\w+)"', code)) <= words.keys()
    of_data = {"heads", "neurons", "channels", *TABLE["rivals"][0]["results"]}
    named = [word for word in words if re.search(rf"\b{word}\b", code) or word.startswith(("legend_", "kind_"))]
    assert words.keys() - {*named} - of_data == set()


def test_the_lesson_is_small():
    scene = TABLE["scenes"][0]
    sheets = [
        lesson.SHEET.format(**{k: scene[k] for k in ("prompt", "seed")}, part=part)
        for part in ("subnets", "noisy", "features")
    ]
    files = [lesson.FOLDER / name for name in (lesson.TABLE, lesson.WIDTHS_SHEET, *sheets)]
    assert sum(path.stat().st_size for path in [*files, *SCRIPTS.iterdir()]) < MAX_BYTES


def run_here(task, *arguments):
    yield from task(*arguments)


def test_a_subnet_that_is_not_prepared_is_drawn():
    keep = np.ones((TABLE["steps"], len(TABLE["graph"]["units"])), dtype=bool)
    keep[2, 1] = False
    prompt = TABLE["scenes"][0]["prompt"]
    (answer,) = draw(run_here, encode_bits(keep), prompt)
    assert answer["picture"].startswith("data:image/png;base64,") and 15 < answer["psnr"] < 60
    assert answer["schedule"] == encode_bits(keep)


@pytest.mark.parametrize(
    ("schedule", "prompt"), [("x", "fox"), ("*" * 8, "fox"), ("", "unicorn"), ("A" * 10**6, "fox")]
)
def test_what_cannot_be_drawn_is_one_sentence(schedule: str, prompt: str):
    (answer,) = draw(run_here, schedule, prompt)
    assert answer["error"] and "\n" not in answer["error"] and "picture" not in answer


def test_scenes_of_fifty_calls_are_those_of_the_gallery():
    facts = json.loads((lesson.FOLDER / lesson.TABLE).read_text(encoding="utf-8"))["fifty"]
    folder = gallery.GALLERIES / lesson.RUN["model"]
    table = json.loads((folder / gallery.TABLE).read_text(encoding="utf-8"))
    number, at = table["samples"].index(facts["scene"]), table["ratios"].index(facts["ratio"])
    sheet = np.asarray(Image.open(lesson.FOLDER / lesson.FIFTY_SHEET).convert("RGB")).astype(float)
    assert sheet.shape == (64, 64 * (1 + len(facts["shown"])), 3)
    assert list(facts["shown"].values()) == sorted(facts["shown"].values(), reverse=True)
    for place, (name, psnr) in enumerate(facts["shown"].items(), start=1):
        result = table["methods"][name]["results"][at]
        assert result["each"]["psnr"][number] == pytest.approx(psnr, abs=0.06)
        assert facts["psnr"][name] == result["means"]["psnr"]
        strip = np.asarray(Image.open(folder / f"{number:02}-{name}.webp").convert("RGB"))
        tile = strip.reshape(64, -1, 64, 3).cumsum(axis=1, dtype=np.uint8)[:, at]
        assert np.abs(sheet[:, 64 * place : 64 * place + 64] - tile).mean() < 4  # the sheet is lossy
