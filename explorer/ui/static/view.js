// The Explore tab in the browser: one state, from which everything is painted. Python answers only what the gallery cannot.
// Here: what a visitor does, and what Python answers.

import { useArrowKeys } from "./arrowKeys.js";
import { playExample, play } from "./autoplay.js";
import { fetchGallery, galleryFacts } from "./gallery.js";
import { controlsFor, controlsForSample, findSample, galleryHit, hasDefaultSettings, same } from "./galleryLookup.js";
import { Heatmap } from "./heatmap.js";
import { Filmstrip, History } from "./history.js";
import { paint } from "./pictures.js";
import { listenToPointer, zoom } from "./pointer.js";
import { showAtFields } from "./fieldErrors.js";
import { listenToRatio, ratioEnd } from "./ratioSlider.js";
import { render, renderPictures } from "./render.js";
import { pack } from "./schedule.js";
import { filmstrip, history, openedWith, parts, setShared, state, strips, table } from "./state.js";
import { ROLES, fillMethods, fillSamples, fillViewer, savePicture } from "./templates.js";
import { nextStep } from "./tour.js";
import { writeExplore } from "./urlState.js";

let shownModel; // whose gallery is shown
let numWaiting = 0; // requests that wait for a gallery, or for a request before them that does
let waiting = Promise.resolve();

/** Take over the controls' values, by name, with the gallery of their model. `byVisitor`: whether a visitor changed them,
 * so that Python may be called. */
export function setRequest(values, byVisitor) {
  const modelOf = () => values.model ?? state.request.model ?? shownModel;
  if (!numWaiting && modelOf() === shownModel) return followRequest(values, byVisitor);
  numWaiting++;
  waiting = waiting.then(() => showGallery(modelOf())).then(() => {
    numWaiting--;
    followRequest(values, byVisitor);
  });
}

function followRequest(values, byVisitor) {
  const before = state.request;
  state.request = { ...before, ...values };
  const unchanged = Object.entries(values).every(([name, value]) => before[name] === value || name === "show");
  if (byVisitor && !unchanged) reset();
  const otherMethod = before.method && before.method !== state.request.method;
  if (byVisitor && otherMethod && !state.returningTo && !galleryHit() && hasDefaultSettings()) return useGallerySettings();
  if (Number(state.request.ratio) > ratioEnd()) return endAt(ratioEnd());
  if (state.returningTo) Object.assign(state, { generated: state.returningTo.generated, returningTo: null });
  writeExplore();
  render();
  if (byVisitor && !galleryHit() && !unchanged) parts.view?.trigger("plan");
}

/** Move the slider to where the chosen method ends, and say so. */
function endAt(end) {
  state.nextNotice = `${parts.view.props.titles[state.request.method] ?? "This importance"} skips ${Math.round(100 * end)} % at most: the slider is there now.`;
  choose({ ratio: end });
}

/** Drop what was generated or edited for the last request. */
function reset() {
  Object.assign(state, { edited: null, generated: null, outdated: true, isStopped: false, notice: state.nextNotice, nextNotice: "" });
}

/** After another method was chosen: choose the settings that the gallery has of it, if it has any. */
function useGallerySettings() {
  const { request } = state;
  const name = Object.keys(table?.methods ?? {}).find((one) => table.methods[one].granularity && table.methods[one].method === request.method);
  const settings = name && controlsFor(name);
  if (settings && findSample() >= 0 && !Object.entries(settings).every(([field, value]) => same(value, request[field]))) return choose(settings);
  render();
  writeExplore();
  parts.view?.trigger("plan");
}

/** Keep showing `name` while the slider moves, whose settings may be others there; the controls follow when it settles. */
function followMethod(name) {
  if (!table.methods[name].settings_at) return;
  Object.assign(state.request, controlsFor(name));
  state.controlsBehind = true;
}

// -- mounting

export async function mountView(part) {
  if (parts.view) return parts.view.arrive(part); // the first screen is there already
  parts.view = part;
  const { element, props, watch } = part;
  fillViewer(element.querySelector(".viewer"));
  element.querySelector(".card .frame").append(...element.querySelectorAll(".wipe, .gain")); // where they move nothing
  setShared({ filmstrip: new Filmstrip(element.querySelector(".filmstrip")), history: new History(element.querySelector(".history"), returnTo) });
  listen(element);
  document.body.classList.toggle("embed", openedWith.has("embed")); // for a slide: pictures, heatmap and slider alone
  const modes = [...element.querySelectorAll(".modes button")].map((button) => button.dataset.mode);
  if (modes.includes(openedWith.get("view"))) setMode(openedWith.get("view"));
  watch("value", () => receive(part.props.value));
  if (openedWith.size) part.trigger("address");
  else window.explorerReady = true; // there is no tab that the address names
  await showGallery(openedWith.get("model") ?? props.model);
  // only now: until then the page keeps the request in `explorerRequest`
  window.explorer = { setRequest, manualSchedule: () => (state.edited ? pack(state.edited) : ""), chosenValues, unit: () => state.unit };
  if (window.explorerRequest) setRequest(window.explorerRequest, true);
  if (!openedWith.size && table) playExample(element.querySelector(".play"), table.ratios, stripIsHere, say);
}

export function mountHeatmap(part) {
  if (parts.heatmap) return parts.heatmap.arrive(part);
  const onEdit = (keep) => {
    reset();
    state.edited = keep;
    writeExplore();
    render();
  };
  const onUnit = (unit) => {
    state.unit = unit;
    part.trigger("unit");
  };
  parts.heatmap = part;
  setShared({ heatmap: new Heatmap(part.element.querySelector("figure"), part.props, onEdit, onUnit) });
  part.watch("value", () => {
    state.plan = part.props.value;
    const { asked, max_ratio } = state.plan ?? {};
    if (asked > max_ratio + 0.001 && same(asked, state.request.ratio)) endAt(Math.floor(100 * max_ratio) / 100);
    render();
  });
  render();
}

// -- what Python generates

const queue = [];
const PAINT_EVERY_MS = 250; // where messages come faster than they can be painted
let newestRun = -1;
let receiving;
let painted = 0;

/** Receive three pictures with their facts, finished or not. All go into the filmstrip; of those that wait only
 * the newest is painted, or one now and then, and none after the request has changed or a later run has begun. */
async function receive(value) {
  if (!value || value.run < newestRun) return;
  if (value.run > newestRun) begin(value.run);
  queue.push(value);
  if (receiving) return;
  receiving = true;
  while (queue.length) {
    const next = queue.shift();
    const generated = { ...next, images: await decodeImages(next.cards) };
    if (state.outdated || next.run !== newestRun) continue;
    state.generated = generated;
    filmstrip.add(generated.cards, generated.images);
    if (generated.cards.baseline.done) history.add(state.request, generated, filmstrip.frames, Boolean(state.edited));
    if (queue.length && performance.now() - painted < PAINT_EVERY_MS) continue;
    paintGenerated();
    painted = performance.now();
  }
  receiving = false;
}

function begin(run) {
  newestRun = run;
  Object.assign(state, { outdated: false, isStopped: false });
  queue.length = 0;
  filmstrip.begin();
}

/** Return to something that was generated before: its request, and its pictures with it. */
function returnTo(entry) {
  state.returningTo = entry;
  filmstrip.frames = entry.frames;
  choose(entry.request);
}

async function decodeImages(cards) {
  const images = {};
  for (const role of ROLES) {
    const source = cards[role].picture;
    if (!source) continue;
    images[role] = state.generated?.images[role]?.src === source ? state.generated.images[role] : new Image();
    images[role].src = source;
    await images[role].decode();
  }
  return images;
}

function paintGenerated() {
  const view = parts.view.element.querySelector(".view");
  if (view.dataset.source === "generated") renderPictures(galleryHit(), "generated");
  else render();
}

// -- what a visitor does

/** Say in words what is seen, in the place of the task, or bring the task back. */
function say(isSaid) {
  state.isSaid = isSaid;
  render();
}

/** Whether the strip of the current pictures is loaded. */
function stripIsHere() {
  const hit = state.request.prompt && galleryHit();
  return hit && strips.get(hit.sample, hit.method);
}

/** Show a model's gallery in place of another's. Without one there are no scenes, and no methods to compare. */
async function showGallery(model) {
  if (model === shownModel) return;
  setShared(await fetchGallery(model));
  shownModel = model;
  const { element } = parts.view;
  fillMethods(element.querySelector(".methods .row"), table?.methods ?? {}, parts.view.props.hues);
  element.querySelector(".all-prompts").replaceChildren();
  showSamples(document.querySelector("#lead .samples"));
  const { warnings } = galleryFacts(model);
  element.querySelector(".warnings").hidden = !warnings.length;
  element.querySelector(".warnings").textContent = warnings.join(". ");
}

function showSamples(box) {
  fillSamples(box, table?.samples ?? []);
  const buttons = [...box.children]; // another model's may take their place before they are painted
  const from = strips;
  const later = window.requestIdleCallback ?? ((work) => setTimeout(work, 300));
  later(() => buttons.forEach((button, sample) => from.load(sample, "full").then((image) => paint(button.firstChild, image))));
}

let settling;

/** Follow the slider once it rests, moved by mouse, finger or key. */
function onSliderSettled() {
  writeExplore();
  if (state.controlsBehind) choose({});
  state.controlsBehind = false;
  if (!galleryHit()) parts.view.trigger("plan");
}

/** Follow the prompt however it changes: Gradio's own event knows of keys alone, not of pasting, cutting or undoing. */
function onPromptInput({ target }) {
  if (target.closest("#prompt")) setRequest({ prompt: target.value }, true);
}

function onSliderInput({ target }) {
  if (!target.closest("#ratio") || target.value === "") return;
  const hit = galleryHit();
  state.request.ratio = Number(target.value);
  if (hit) followMethod(hit.method);
  reset();
  render();
  clearTimeout(settling);
  settling = setTimeout(onSliderSettled, 250);
}

function onClick({ target }) {
  const view = parts.view.element.querySelector(".view");
  const button = target.closest("button");
  if (!button || button.closest(".history")) return;
  const { mode, sample, method } = button.dataset;
  if (mode) setMode(mode);
  else if (sample !== undefined) choose(controlsForSample(sample));
  else if (method) choose(controlsFor(method));
  else if (button.matches(".play")) play(button, table?.ratios ?? [0.2, 0.4, 0.6, 0.8]);
  else if (button.matches(".start-tour")) nextStep();
  else if (button.matches(".zoom")) zoom(view, button);
  else if (button.matches(".save")) savePicture(button.closest(".card"), state.request);
}

function listen(element) {
  listenToRatio();
  if (document.querySelector("#alert")) showAtFields(document.querySelector("#alert"));
  document.addEventListener("click", ({ target }) => target.closest("#stop") && onStop());
  document.addEventListener("input", onSliderInput);
  document.addEventListener("input", onPromptInput);
  for (const box of [element.querySelector(".view"), document.querySelector("#lead .lead")]) box.addEventListener("click", onClick);
  for (const box of [document.querySelector("#lead .samples"), ...element.querySelectorAll(".modes, .methods .row")]) useArrowKeys(box);
  listenToPointer(element);
}

function onStop() {
  state.isStopped = Boolean(state.generated);
  render();
}

function setMode(mode) {
  const { element } = parts.view;
  state.mode = mode;
  element.querySelector(".view").dataset.mode = mode;
  for (const button of element.querySelectorAll(".modes button")) button.setAttribute("aria-checked", button.dataset.mode === mode);
  writeExplore();
  render();
}

/** Put values into the controls, as if the visitor had: the page's own listener writes them there. */
export function choose(values) {
  state.chosen = values;
  parts.view.trigger("choose");
}

/** List what was clicked, and else what the controls hold, in the order of `names`. */
const chosenValues = (names) => names.map((name) => state.chosen[name] ?? state.request[name] ?? null);
