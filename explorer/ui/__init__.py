"""The page: one file a tab, `components` for what tabs share. The only place that imports gradio.

Gradio's own environment variables choose host and port (GRADIO_SERVER_NAME, GRADIO_SERVER_PORT); EXPLORER_DATA is the
folder for what the page writes, EXPLORER_AUTH the word that whoever changes anything has to give.
"""

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import gradio as gr

from explorer import gallery
from explorer.experiment import Question
from explorer.jobs.cluster import Cluster
from explorer.jobs.executors import Executor, OneProcess
from explorer.jobs.foreman import Foreman
from explorer.jobs.ledger import Ledger, folder
from explorer.jobs.shelf import Shelf
from explorer.ui import api, browser, components, explore, features, lent, masks, optimize, smaller, visitors
from explorer.ui.visitors import Guard

TITLE = "Diffusion Pruning Explorer"
HEADER = f"""<header><h1>{TITLE}</h1><p>A diffusion model calls one network dozens of times to turn noise into a
picture. Leave parts out: what does that save, and what does the picture lose?</p></header>"""
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
THEME = gr.themes.Base(primary_hue="sky", neutral_hue="slate", radius_size="lg", font=FONT, font_mono=FONT).set(
    slider_color="*primary_600",
    slider_color_dark="*primary_500",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
)
FOLDER = Path(__file__).parent
HOUR = 3600  # after which what was sent and never used is deleted
TABS = ("explore", "features", "smaller", "optimize", "masks")
OPEN = Guard()  # to everybody
SESSIONS = 300  # that Gradio remembers, at 170 kB each; a call of the API is one


def build(
    executor: Executor | None = None, foreman: Foreman | None = None, shelf: Shelf | None = None, guard: Guard = OPEN
) -> gr.Blocks:
    """The whole page, not yet launched; work goes to `executor` (default: a process of its own), long work to `foreman`
    and masks to `shelf` (without one there is no tab for it). Imports no torch."""
    executor = executor or OneProcess()
    gr.set_static_paths([components.PLOTLY, browser.VIEW, gallery.FOLDER])
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        components.markup(HEADER, elem_id="header")
        visitor = visitors.arriving(page, guard)
        with gr.Tabs(elem_id="tabs") as tabs:
            with _tab("explore"):
                explored = explore.build(page, executor, shelf)
            with _tab("features") as tab:
                features.build(executor, explored.question, tab, explored.keep, tabs)
            with _tab("smaller") as tab:
                network = smaller.build(executor, explored, tab, tabs)
            if foreman and shelf:
                gr.set_static_paths([foreman.ledger.results])
                with _tab("optimize") as tab:
                    optimize.build(page, executor, foreman, shelf, tab, visitor)
            if shelf:
                with _tab("masks") as tab:
                    masks.build(executor, shelf, explored.question, tab, visitor)
        came = explored.came.then(smaller.from_address, None, network, **components.LIGHT)
        came = came.then(tab_of, None, tabs, **components.LIGHT)
        came.then(None, None, None, js="() => { window.explorerCame = true }", api_visibility="private")
        api.publish(executor)
    return page.queue(max_size=32, default_concurrency_limit=4, api_open=False)


def tab_of(request: gr.Request) -> gr.Tabs:
    """The tab that the address names, so that a link leads there."""
    name = request.query_params.get("tab")
    return gr.Tabs(selected=name) if name in TABS else gr.skip()


def _tab(name: str) -> gr.Tab:
    """A tab that the address remembers, once the tab that it names is open."""
    tab, remember = gr.Tab(name.capitalize(), id=name), browser.in_address("tab")
    shown = "" if name == TABS[0] else name
    told = f"() => window.explorerCame && ({remember})({shown!r})"
    tab.select(None, None, None, js=told, api_visibility="private")
    return tab


def threads_a_picture() -> int:
    """Half of the cores (which a Space is told in CPU_CORES): two visitors draw side by side at full speed.

    Every visitor's thread brings OpenMP threads of its own, which sleep between operations once there are more of them
    than cores; waking them took longer than they saved (2 cores: 117 ms a call with two threads, 68 ms with one).
    """
    return max(1, int(os.environ.get("CPU_CORES") or os.cpu_count() or 1) // 2)


def launch() -> None:
    """Serve the page until it is interrupted."""
    data = Path(os.environ.get("EXPLORER_DATA", "data"))
    os.environ.setdefault("GRADIO_TEMP_DIR", str(data / "gradio"))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_a_picture()))
    executor = lent.borrower() if lent.lends() else OneProcess(nice=5)  # the page itself answers first
    Thread(target=_warm, args=(executor,), daemon=True).start()
    foreman = _foreman()
    shelf = Shelf(data / "masks", foreman and foreman.ledger)
    a_minute = int(os.environ.get("EXPLORER_CHANGES_A_MINUTE") or visitors.A_MINUTE)
    guard = Guard(os.environ.get("EXPLORER_AUTH") or None, a_minute)
    build(executor, foreman, shelf, guard).launch(
        theme=THEME,
        css_paths=[FOLDER / "style.css"],
        head=browser.preloads(),
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        max_file_size="5mb",
        state_session_capacity=SESSIONS,
        mcp_server=find_spec("mcp") is not None,  # the API's questions as tools, where gradio[mcp] is installed
    )


def _foreman() -> Foreman | None:
    """Takes up the jobs in the data folder; None where another page has them."""
    try:
        ledger = Ledger(folder())
    except ValueError as error:
        print(f"no jobs on this page: {error}", file=sys.stderr)
        return None
    if ledger.said:
        print(ledger.said, file=sys.stderr)
    return Foreman(ledger, Cluster(os.environ.get("EXPLORER_SCHEDULER") or None)).start()


def _warm(executor: Executor) -> None:
    """Have the model loaded before the first visitor asks for anything."""
    with suppress(ValueError):
        list(executor.run("nobody", "plan", Question()))
