// The Explore tab in the browser: one state, from which everything is painted. Python hears only of what is not in the
// gallery. Here: what a visitor does, and what Python answers.

import { remember } from "./address.js";
import { choiceOf, covered, plain, same } from "./covering.js";
import { KeepMap } from "./map.js";
import * as markup from "./parts.js";
import { MODES, ROLES } from "./parts.js";
import { Strips, paint } from "./pictures.js";
import { example, play } from "./play.js";
import { overlay, render, renderPictures } from "./render.js";
import { pack } from "./schedule.js";
import { bring, film, opened, parts, state, strips, table, visits } from "./state.js";
import { next as tour } from "./tour.js";
import { Film, Visits } from "./visits.js";

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

// -- mounting

export async function mountView(part) {
  parts.view = part;
  const { element, props, watch } = part;
  markup.modes(element.querySelector(".modes"));
  markup.stage(element.querySelector(".stage"));
  bring({ film: new Film(element.querySelector(".film")), visits: new Visits(element.querySelector(".visits"), goBack) });
  listen(element);
  document.body.classList.toggle("embed", opened.has("embed")); // for a slide: pictures, map and slider alone
  if (opened.get("view") in MODES) look(opened.get("view"));
  watch("value", () => take(props.value));
  if (props.folder) {
    const read = await (await fetch(`${props.folder}table.json`)).json();
    bring({ strips: new Strips(props.folder, props.missing), table: read });
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
  bring({ map: new KeepMap(part.element, part.props.library, edited, named) });
  part.watch("value", () => {
    state.plan = part.props.value;
    render();
  });
  render();
}

// -- what Python drew

/** What Python drew: three pictures with their facts, each as far as it has come. All go into the film; of
 * those that wait only the newest is painted, or one now and then, and none after the visitor has moved on. */
const incoming = [];
const LATEST = 250; // milliseconds without anything new to see, where moments come faster than they can be painted
let taking;
let painted = 0;
async function take(value) {
  if (!value) return;
  if (value.cards.original.call === 0) begin();
  incoming.push(value);
  if (taking) return;
  taking = true;
  while (incoming.length) {
    const next = incoming.shift();
    const drawn = { ...next, images: await decoded(next.cards) };
    if (state.left) continue;
    state.drawn = drawn;
    film.add(drawn.cards, drawn.images);
    if (drawn.cards.rival.done) visits.add(state.asked, drawn, film.frames);
    if (incoming.length && performance.now() - painted < LATEST) continue;
    paintDrawn();
    painted = performance.now();
  }
  taking = false;
}

function begin() {
  state.left = false;
  incoming.length = 0;
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

// -- what a visitor does

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

let moving;

/** The slider has come to rest, be it by mouse, finger or key. */
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
