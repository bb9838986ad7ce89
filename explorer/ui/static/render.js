// Painting everything from the state, all in one frame.

import { restore } from "./address.js";
import { covered, rivalOf } from "./covering.js";
import * as markup from "./parts.js";
import { ROLES } from "./parts.js";
import { paint, paintDifference } from "./pictures.js";
import { floats, unpack } from "./schedule.js";
import { film, map, parts, state, strips, table } from "./state.js";
import { cards, safe, tiles, winner, words } from "./words.js";

/** Paint everything from the state, at once. */
export function render() {
  if (!parts.view || !state.asked.prompt) return;
  const { element } = parts.view;
  const at = covered();
  const source = state.drawn ? "drawn" : at ? "gallery" : "none";
  element.querySelector(".view").dataset.source = source;
  markScene(at);
  if (at) preload(at);
  renderPictures(at, source);
  renderWall(at);
  renderOthers(at);
  renderMap(at);
  markSafe(at);
  const shown = { table, at, state, rival: table && rivalOf(), plan: state.plan };
  element.querySelector(".tiles").innerHTML = tiles(shown);
  element.querySelector(".words").innerHTML = words(shown);
}

export function renderPictures(at, source) {
  const { element } = parts.view;
  const told = cards({ table, at, state, rival: table && rivalOf() });
  for (const role of ROLES) {
    const card = element.querySelector(`.card[data-role=${role}]`);
    const canvas = card.querySelector(".own");
    if (source === "drawn") paint(canvas, state.drawn.images?.[role]);
    else if (at) {
      const [method, tile] = { original: ["full", 0], pruned: [at.method, at.stop], rival: [rivalOf(), at.stop] }[role];
      paint(canvas, ...(tile < 0 ? [strips.get(at.scene, "full"), 0] : [present(at, method) && strips.get(at.scene, method), tile]));
    } else paint(canvas, undefined);
    paintCard(card, told[role]);
  }
  element.querySelector(".footer").textContent = source === "drawn" ? state.drawn.footer : "";
  if (source !== "drawn") element.querySelector(".film").hidden = true;
  else if (element.querySelector(".film").hidden) film.show();
  overlay();
}

/** Whether a method of the gallery can stand at this stop. */
const present = (at, method) => method === "full" || at.stop < 0 || table.methods[method].stops[at.stop];

function paintCard(card, told) {
  card.querySelector("h2").textContent = told.title;
  card.querySelector("p").textContent = told.what;
  card.querySelector("dl").innerHTML = told.facts.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
  card.querySelector(".own").setAttribute("aria-label", `${state.asked.prompt}, ${told.title.toLowerCase()}`);
  card.querySelector(".counter").textContent = told.counter ?? "";
  card.querySelector("progress").value = told.done ?? 1;
  card.dataset.done = told.done === undefined || told.done === 1;
  card.querySelector(".frame").classList.toggle("noise", Boolean(told.empty));
}

/** The original under the other two, for wipe, blink and difference. */
export function overlay() {
  const { element } = parts.view;
  const canvas = (role, which) => element.querySelector(`.card[data-role=${role}] .${which}`);
  const original = canvas("original", "own");
  for (const role of ROLES.slice(1)) {
    const under = canvas(role, "under");
    under.width = under.height = original.width;
    if (state.mode === "side" || !original.width || !canvas(role, "own").width) continue;
    under.getContext("2d").drawImage(original, 0, 0);
    if (state.mode === "difference") paintDifference(under, original, canvas(role, "own"), Number(element.querySelector(".gainer input").value));
  }
}

/** Every other method at this stop: a picture, its likeness, a click that takes it over. */
function renderOthers(at) {
  const { element } = parts.view;
  element.querySelector(".others").hidden = !at;
  if (!at) return;
  const best = winner(table, at.stop);
  for (const button of element.querySelectorAll(".others button")) {
    const { method } = button.dataset;
    const stop = at.stop < 0 ? table.original : table.methods[method].stops[at.stop];
    button.setAttribute("aria-pressed", method === at.method || method === rivalOf());
    button.classList.toggle("first", Boolean(stop) && method === best);
    button.disabled = !stop;
    paint(button.querySelector("canvas"), stop && strips.get(at.scene, at.stop < 0 ? "full" : method), Math.max(0, at.stop));
    button.querySelector("small").textContent = !stop ? "cannot go so far" : `${stop.each.psnr[at.scene].toFixed(1)} dB`;
  }
}

/** Every scene by the method of the moment, the original beside it. */
function renderWall(at) {
  const wall = parts.view.element.querySelector(".wall");
  wall.hidden = state.mode !== "wall" || !at;
  if (wall.hidden) return;
  if (!wall.children.length) markup.wall(wall, table.scenes);
  const stop = at.stop < 0 ? table.original : table.methods[at.method].stops[at.stop];
  for (const [scene, button] of [...wall.children].entries()) {
    const [one, other] = button.querySelectorAll("canvas");
    paint(one, strips.get(scene, "full"));
    if (at.stop < 0) paint(other, strips.get(scene, "full"));
    else paint(other, stop && strips.get(scene, at.method), at.stop);
    button.querySelector("small").textContent = stop ? `${Math.min(99, stop.each.psnr[scene]).toFixed(0)} dB` : "–";
    button.setAttribute("aria-pressed", scene === at.scene);
    for (const method of ["full", at.method]) if (!strips.get(scene, method)) strips.load(scene, method).then((image) => image && schedulePaint());
  }
}

function renderMap(at) {
  const ordered = at ? table.methods[at.method].goes : state.plan?.goes;
  if (at || state.plan) document.querySelector("#show")?.classList.toggle("absent", !ordered); // only an order has something else to show
  if (!map) return;
  const what = ordered ? (state.asked.show ?? "decision") : "decision";
  const { figures } = parts.view.props;
  if (at) {
    const method = table.methods[at.method];
    const graph = table.graphs[method.granularity];
    const size = table.timesteps.length * graph.units.length;
    const stop = method.stops[at.stop];
    const drawn = at.stop < 0 ? new Uint8Array(size).fill(1) : stop ? unpack(stop.keep, size) : null;
    const values = what === "order" ? method.goes : what === "score" ? method.score : null;
    if (drawn)
      map.show({ graph, keep: state.edited ?? drawn, base: drawn, timesteps: table.timesteps, figure: figures[method.granularity],
        values: values && floats(values), what, ratio: at.stop < 0 ? 0 : 1 - stop.kept });
  } else if (state.plan) {
    const { graph, keep, timesteps, figure, goes, score, reached } = state.plan;
    const values = what === "order" ? goes : what === "score" ? score : null;
    const bits = unpack(keep, timesteps.length * graph.units.length);
    map.show({ graph, keep: state.edited ?? bits, base: bits, timesteps, figure, values: values && floats(values), what, ratio: reached });
  }
  if (restore()) render();
}

function markScene(at) {
  for (const button of parts.view.element.querySelectorAll(".scenes button"))
    button.setAttribute("aria-pressed", Number(button.dataset.scene) === at?.scene);
}

/** Under the slider: up to which ratio the pictures are still what was asked for. */
function markSafe(at) {
  const range = document.querySelector("#ratio input[type=range]");
  if (!range) return;
  let zone = document.querySelector("#ratio .zone");
  if (!zone) {
    zone = document.createElement("div");
    zone.className = "zone";
    zone.title = "Up to here a second network still finds the right name nearly as often as for the full run";
    range.after(zone);
  }
  const share = at ? safe(table, at.method) : null;
  zone.hidden = share === null;
  Object.assign(zone.style, { left: `${range.offsetLeft}px`, width: `${(range.offsetWidth * (share ?? 0)) / range.max}px`, top: `${range.offsetTop + range.offsetHeight + 3}px` });
}

/** Fetch what the next movements need: this scene by the method of the moment first, then by all others. */
function preload({ scene, method }) {
  const wanted = ["full", method, rivalOf(), ...Object.keys(table.methods)];
  for (const one of wanted) if (!strips.get(scene, one)) strips.load(scene, one).then((image) => image && schedulePaint());
}

let waiting = false;
function schedulePaint() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    render();
  });
}
