// The Explore tab in the browser: one state, from which pictures, numbers, words and the map are painted, all in one frame.
// Python hears only of what is not in the gallery.

import { cards, safe, tiles, winner, words } from "./words.js";
import { close, floats, pack, unpack } from "./schedule.js";
import { KeepMap } from "./map.js";
import * as markup from "./parts.js";
import { MODES, ROLES } from "./parts.js";
import { example, play } from "./play.js";
import { Strips, paint, paintDifference } from "./pictures.js";
import { next as tour } from "./tour.js";
import { Film, Visits } from "./visits.js";

const opened = new URLSearchParams(location.search); // before anything writes into the address
const state = { asked: {}, mode: "side", edited: null, plan: null, drawn: null, wanted: opened.get("keep") };
const parts = {}; // what the two components of the page brought along
let table, strips, map, film, visits;

/** The controls' values, by name. `moved`: whether a visitor did it, so that Python may be asked. */
export function asked(values, moved) {
  const before = state.asked;
  state.asked = { ...before, ...values };
  const unchanged = Object.entries(values).every(([name, value]) => before[name] === value || name === "show");
  if (moved && !unchanged) leave();
  const another = before.method && before.method !== state.asked.method;
  if (moved && another && !state.returning && !covered() && plain()) return takeOver();
  if (state.returning) {
    Object.assign(state, { drawn: state.returning.drawn, returning: null });
  }
  remember();
  render();
  if (moved && !covered() && !unchanged) parts.view?.trigger("plan");
}

/** Another question: what was drawn or edited for the last one goes. */
function leave() {
  Object.assign(state, { edited: null, drawn: null, left: true });
}

/** What stands in the gallery for the question of the moment; null where nothing does. */
function covered() {
  const { asked: at } = state;
  const fits = ["model", "sampler", "steps", "guidance"].every((name) => String(at[name]) === String(table?.[name]));
  const scene = fits ? table.scenes.findIndex(({ prompt, seed }) => prompt === at.prompt?.trim() && seed === Number(at.seed)) : -1;
  if (scene < 0) return null;
  const stop = stopOf();
  const method = Object.keys(table.methods).find((name) => matches(table.methods[name], stop));
  return method ? { scene, method, stop } : null;
}

/** The stop of the gallery nearest to the slider; -1 where nothing is left out. */
function stopOf() {
  const stop = table.ratios.reduce((best, ratio, index) => (distance(ratio) < distance(table.ratios[best]) ? index : best), 0);
  return distance(0) < distance(table.ratios[stop]) ? -1 : stop;
}

const distance = (ratio) => Math.abs(ratio - Number(state.asked.ratio));

/** Whether the controls name this method with its settings at this stop; what they leave open is the method's default. */
function matches({ method, settings, settings_at, granularity }, stop) {
  if (!granularity || method !== state.asked.method) return false;
  const own = Object.entries(state.asked).filter(([name]) => name.startsWith(`${method}.`));
  const choices = !settings_at ? [settings] : stop < 0 ? settings_at : [settings_at[stop]];
  return choices.some((choice) => own.every(([name, value]) => same(value, valueOf(choice, name))));
}

const same = (one, other) => String(one ?? "") === String(other ?? "");
const valueOf = (settings, name) => settings[name.slice(name.indexOf(".") + 1)] ?? parts.view.props.defaults[name];

/** Whether the settings of the method of the moment are its defaults, all of them. */
const plain = () => Object.entries(state.asked).every(([name, value]) => !name.startsWith(`${state.asked.method}.`) || same(value, valueOf({}, name)));

/** Another method was chosen: take the settings that the gallery has of it, if it has any. */
function takeOver() {
  const name = Object.keys(table?.methods ?? {}).find((one) => table.methods[one].granularity && table.methods[one].method === state.asked.method);
  const settings = name && choiceOf(name);
  const scene = table?.scenes.some(({ prompt, seed }) => prompt === state.asked.prompt?.trim() && same(seed, state.asked.seed));
  if (settings && scene && !Object.entries(settings).every(([field, value]) => same(value, state.asked[field]))) return choose(settings);
  render();
  remember();
  parts.view?.trigger("plan");
}

/** The slider moved on while `name` was shown, whose settings may be others there; the controls follow when it rests. */
function follow(name) {
  if (!table.methods[name].settings_at) return;
  Object.assign(state.asked, choiceOf(name));
  state.followed = true;
}

/** What the few-step card shows: the sampler of the control where the gallery has it. */
const rivalOf = () => (table.methods[`${state.asked.rival}-steps`] ? `${state.asked.rival}-steps` : "dpm++-steps");

/** Paint everything from the state, at once. */
function render() {
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

function renderPictures(at, source) {
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
function overlay() {
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
      map.show({ graph, keep: state.edited ?? drawn, timesteps: table.timesteps, figure: figures[method.granularity],
        values: values && floats(values), what, ratio: at.stop < 0 ? 0 : 1 - stop.kept });
  } else if (state.plan) {
    const { graph, keep, timesteps, figure, goes, score, reached } = state.plan;
    const values = what === "order" ? goes : what === "score" ? score : null;
    const bits = unpack(keep, timesteps.length * graph.units.length);
    map.show({ graph, keep: state.edited ?? bits, timesteps, figure, values: values && floats(values), what, ratio: reached });
  }
  restore();
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

// -- the address: the whole state of the view

function remember() {
  const query = new URLSearchParams(location.search);
  const kept = [...query].filter(([name]) => name.startsWith("__") || name === "embed");
  const { method } = state.asked;
  const shown = Object.entries(state.asked).filter(
    ([name, value]) => value !== null && value !== "" && (!name.includes(".") || name.startsWith(`${method}.`)),
  );
  const own = [state.mode !== "side" && ["view", state.mode], state.edited && ["keep", pack(state.edited)]].filter(Boolean);
  history.replaceState(history.state, "", `?${new URLSearchParams([...kept, ...shown, ...own])}`);
}

// -- mounting

export async function mountView(part) {
  parts.view = part;
  const { element, props, watch } = part;
  markup.modes(element.querySelector(".modes"));
  markup.stage(element.querySelector(".stage"));
  film = new Film(element.querySelector(".film"));
  visits = new Visits(element.querySelector(".visits"), goBack);
  listen(element);
  document.body.classList.toggle("embed", opened.has("embed")); // for a slide: pictures, map and slider alone
  if (opened.get("view") in MODES) look(opened.get("view"));
  watch("value", () => take(props.value));
  if (props.folder) {
    strips = new Strips(props.folder, props.missing);
    table = await (await fetch(`${props.folder}table.json`)).json();
    markup.others(element.querySelector(".others .row"), table.methods);
    showScenes(element.querySelector(".scenes"));
  }
  const amiss = element.querySelector(".amiss");
  amiss.hidden = !props.said.length;
  amiss.textContent = props.said.join(". ");
  // only now: until then the page keeps what is asked in `explorerAsked`
  window.explorer = { asked, byHand: () => (state.edited ? pack(state.edited) : ""), chosen, unit: () => state.unit };
  if (window.explorerAsked) asked(window.explorerAsked, true);
  if (!opened.size && table) example(element.querySelector(".play"), table.ratios, inView);
}

export function mountMap(part) {
  const edited = (keep) => {
    leave();
    state.edited = keep;
    remember();
    render();
  };
  const named = (unit) => {
    state.unit = unit;
    part.trigger("unit");
  };
  map = new KeepMap(part.element, part.props.library, edited, named);
  part.watch("value", () => {
    state.plan = part.props.value;
    render();
  });
  render();
}

/** The schedule made by hand that the address brought along, as soon as there is something to hold it against. */
function restore() {
  if (!state.wanted || !map.whole) return;
  const { graph, timesteps } = map.whole;
  const size = timesteps.length * graph.units.length;
  if (Math.ceil(size / 8) === Math.floor((state.wanted.length * 6) / 8)) state.edited = close(graph, unpack(state.wanted, size));
  state.wanted = null;
  remember();
  render();
}

/** What Python drew: three pictures with their facts, each as far as it has come. Only the newest is painted, and not
 * after the visitor has moved on. */
let incoming, taking;
async function take(value) {
  if (!value) return;
  if (value.cards.original.call === 0) begin();
  incoming = value;
  if (taking) return;
  taking = true;
  while (incoming) {
    const next = incoming;
    incoming = null;
    const drawn = { ...next, images: await decoded(next.cards) };
    if (state.left) continue;
    state.drawn = drawn;
    film.add(drawn.cards, drawn.images);
    if (drawn.cards.rival.done) visits.add(state.asked, drawn, film.frames);
    paintDrawn();
  }
  taking = false;
}

function begin() {
  state.left = false;
  film.begin();
}

/** Back to something that was drawn before: its question, and its pictures with it. */
function goBack(visit) {
  state.returning = visit;
  film.frames = visit.frames;
  choose(visit.asked);
}

async function decoded(cards) {
  const images = {};
  for (const role of ROLES) {
    const source = cards[role].picture;
    if (!source) continue;
    images[role] = state.drawn?.images[role]?.src === source ? state.drawn.images[role] : new Image();
    images[role].src = source;
    await images[role].decode();
  }
  return images;
}

function paintDrawn() {
  const view = parts.view.element.querySelector(".view");
  if (view.dataset.source === "drawn") renderPictures(covered(), "drawn");
  else render();
}

/** Whether the pictures of the moment are there. */
function inView() {
  const at = state.asked.prompt && covered();
  return at && strips.get(at.scene, at.method);
}

function showScenes(box) {
  markup.scenes(box, table.scenes);
  const later = window.requestIdleCallback ?? ((work) => setTimeout(work, 300));
  later(() => table.scenes.forEach((_, scene) => strips.load(scene, "full").then((image) => paint(box.children[scene].firstChild, image))));
}

function markScene(at) {
  for (const button of parts.view.element.querySelectorAll(".scenes button"))
    button.setAttribute("aria-pressed", Number(button.dataset.scene) === at?.scene);
}

/** The slider has come to rest, be it by mouse, finger or key. */
let moving;
function rest() {
  remember();
  if (state.followed) choose({});
  state.followed = false;
  if (!covered()) parts.view.trigger("plan");
}

function listen(element) {
  const view = element.querySelector(".view");
  document.addEventListener("input", ({ target }) => {
    if (!target.closest("#ratio") || target.value === "") return;
    const at = covered();
    state.asked.ratio = Number(target.value);
    if (at) follow(at.method);
    leave();
    render();
    clearTimeout(moving);
    moving = setTimeout(rest, 250);
  });
  element.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button || button.closest(".visits")) return;
    const { mode, scene, method } = button.dataset;
    if (mode) look(mode);
    else if (scene !== undefined) choose({ prompt: table.scenes[scene].prompt, seed: table.scenes[scene].seed });
    else if (method) choose(choiceOf(method));
    else if (button.matches(".play")) play(button, table?.ratios ?? [0.2, 0.4, 0.6, 0.8]);
    else if (button.matches(".tourist")) tour();
    else if (button.matches(".zoom")) view.dataset.zoom = { 1: 2, 2: 4, 4: 1 }[view.dataset.zoom ?? 1];
    else if (button.matches(".save")) markup.save(button.closest(".card"), state.asked);
  });
  element.querySelector(".wiper input").addEventListener("input", ({ target }) => view.style.setProperty("--wipe", `${target.value}%`));
  element.querySelector(".gainer input").addEventListener("input", overlay);
  element.querySelector(".stage").addEventListener("pointermove", (event) => {
    const frame = event.target.closest(".frame")?.getBoundingClientRect();
    if (!frame) return;
    const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height].map((share) => `${100 * share}%`);
    view.style.setProperty("--x", x);
    view.style.setProperty("--y", y);
    if (state.mode === "wipe" && (event.buttons || event.pointerType === "mouse")) view.style.setProperty("--wipe", x);
  });
}

function look(mode) {
  const { element } = parts.view;
  state.mode = mode;
  element.querySelector(".view").dataset.mode = mode;
  for (const button of element.querySelectorAll(".modes button")) button.setAttribute("aria-checked", button.dataset.mode === mode);
  remember();
  render();
}

/** Put values into the controls, as if the visitor had: the page's own listener writes them there. */
function choose(values) {
  state.chosen = values;
  parts.view.trigger("choose");
}

/** What was clicked, beside what the controls hold, in the order of `names`. */
const chosen = (names) => names.map((name) => state.chosen[name] ?? state.asked[name] ?? null);

/** The controls' values that stand for a method of the gallery at the stop of the moment. */
function choiceOf(name) {
  const { method, settings, settings_at, granularity } = table.methods[name];
  if (!granularity) return { rival: method.replace("-steps", "") };
  const own = settings_at?.[Math.max(0, stopOf())] ?? settings;
  return { method, ...Object.fromEntries(Object.entries(own).map(([field, value]) => [`${method}.${field}`, value])) };
}
