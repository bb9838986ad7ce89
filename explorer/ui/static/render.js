// Paints everything on Explore from the state, all in one frame.

import { captionMarkup, cardFacts, safeRatio, tileMarkup, winner } from "./captions.js";
import { headlineMarkup, taskSentence } from "./headline.js";
import { baselineMethod, galleryHit } from "./galleryLookup.js";
import { paint, paintDifference } from "./pictures.js";
import { floats, unpack } from "./schedule.js";
import { filmstrip, heatmap, parts, state, strips, table } from "./state.js";
import { ROLES, fillAllPrompts } from "./templates.js";
import { restoreSchedule } from "./urlState.js";

/** Paint everything from the state, at once. */
export function render() {
  if (!parts.view || state.request.prompt === undefined) return; // the controls have not told it yet
  const { element } = parts.view;
  const hit = galleryHit();
  const source = state.generated ? "generated" : hit ? "gallery" : "none";
  element.querySelector(".view").dataset.source = source;
  element.querySelector(".view").toggleAttribute("data-edited", Boolean(state.edited && !state.generated)); // veils what is not of it
  markSample(hit);
  if (hit) preload(hit);
  renderPictures(hit, source);
  renderAllPrompts(hit);
  renderMethods(hit);
  const method = hit?.method ?? state.request.method;
  document.body.style.setProperty("--method", parts.view.props.hues[method] ?? "");
  renderHeatmap(hit);
  markSafeZone(hit);
  const shown = shownNow(hit);
  document.querySelector("#lead .task").textContent = taskSentence(shown);
  element.querySelector(".headline").innerHTML = headlineMarkup(shown);
  element.querySelector(".tiles").innerHTML = tileMarkup(shown);
  element.querySelector(".captions").innerHTML = captionMarkup(shown);
}

/** Gather what captions are made of. */
const shownNow = (hit) => ({ table, hit, state, baseline: table && baselineMethod(), plan: state.plan, metrics: parts.view.props.metrics, samplers: parts.view.props.samplers });

export function renderPictures(hit, source) {
  const { element } = parts.view;
  const facts = cardFacts(shownNow(hit));
  const hues = { pruned: "var(--method)", baseline: parts.view.props.hues[`${state.request.baseline_sampler}-steps`] };
  for (const role of ROLES) {
    const card = element.querySelector(`.card[data-role=${role}]`);
    const canvas = card.querySelector(".picture");
    if (source === "generated") paint(canvas, state.generated.images?.[role]);
    else if (hit) paint(canvas, ...galleryTile(hit, role));
    else paint(canvas, undefined);
    card.style.setProperty("--hue", hues[role] ?? "");
    paintCard(card, facts[role]);
  }
  element.querySelector(".footer").textContent = source === "generated" ? `${progressWord()} ${state.generated.footer}` : state.notice;
  if (source !== "generated") element.querySelector(".filmstrip").hidden = true;
  else if (element.querySelector(".filmstrip").hidden) filmstrip.show();
  paintOverlay();
}

function progressWord() {
  if (ROLES.every((role) => state.generated.cards[role].done)) return "Generated for";
  return state.isStopped ? "Stopped before the end, for" : "Generating for";
}

/** Find the strip and the tile of a card. */
function galleryTile({ sample, method, ratioIndex }, role) {
  if (role === "original" || ratioIndex < 0) return [strips.get(sample, "full"), 0];
  const shown = role === "pruned" ? method : baselineMethod();
  return [table.methods[shown].results[ratioIndex] && strips.get(sample, shown), ratioIndex];
}

function paintCard(card, facts) {
  card.querySelector("h2").textContent = facts.title;
  card.querySelector("p").textContent = facts.what;
  card.querySelector("dl").innerHTML = facts.rows.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
  const { prompt, seed } = state.request;
  const scene = table?.samples[0].prompt === "" ? `seed ${seed}` : prompt; // an unconditional model ignores the prompt
  card.querySelector(".picture").setAttribute("aria-label", `${scene}, ${facts.title.toLowerCase()}`);
  card.querySelector(".counter").textContent = facts.counter ?? "";
  card.querySelector("progress").value = facts.done ?? 1;
  card.dataset.done = facts.done === undefined || facts.done === 1;
  card.querySelector(".frame").classList.toggle("noise", Boolean(facts.empty));
}

/** Paint the original under the other two, for wipe, blink and difference. */
export function paintOverlay() {
  const { element } = parts.view;
  const canvas = (role, which) => element.querySelector(`.card[data-role=${role}] .${which}`);
  const original = canvas("original", "picture");
  for (const role of ROLES.slice(1)) {
    const underlay = canvas(role, "underlay");
    underlay.width = underlay.height = original.width;
    if (state.mode === "side" || !original.width || !canvas(role, "picture").width) continue;
    underlay.getContext("2d").drawImage(original, 0, 0);
    if (state.mode === "difference") paintDifference(underlay, original, canvas(role, "picture"), Number(element.querySelector(".gain input").value));
  }
}

/** Show every other method at this ratio: a picture, its PSNR, a click that chooses it. */
function renderMethods(hit) {
  const { element } = parts.view;
  element.querySelector(".methods").hidden = !hit;
  if (!hit) return;
  const { sample, ratioIndex } = hit;
  const best = winner(table, ratioIndex);
  for (const button of element.querySelectorAll(".methods button")) {
    const { method } = button.dataset;
    const result = ratioIndex < 0 ? table.original : table.methods[method].results[ratioIndex];
    button.setAttribute("aria-pressed", (method === hit.method && !state.edited) || method === baselineMethod());
    button.classList.toggle("winner", Boolean(result) && method === best);
    button.querySelector("small").title = method === best ? `closest on average over the ${table.samples.length} scenes` : "";
    button.disabled = !result;
    paint(button.querySelector("canvas"), result && strips.get(sample, ratioIndex < 0 ? "full" : method), Math.max(0, ratioIndex));
    button.querySelector("small").textContent = !result ? "out of range" : `${result.each.psnr[sample].toFixed(1)} dB`;
  }
}

/** Show every sample by the current method, the original next to it. */
function renderAllPrompts(hit) {
  const box = parts.view.element.querySelector(".all-prompts");
  box.hidden = state.mode !== "prompts" || !hit;
  if (box.hidden) return;
  if (!box.children.length) fillAllPrompts(box, table.samples);
  const { method, ratioIndex } = hit;
  const result = ratioIndex < 0 ? table.original : table.methods[method].results[ratioIndex];
  for (const [sample, button] of [...box.children].entries()) {
    const [original, pruned] = button.querySelectorAll("canvas");
    paint(original, strips.get(sample, "full"));
    if (ratioIndex < 0) paint(pruned, strips.get(sample, "full"));
    else paint(pruned, result && strips.get(sample, method), ratioIndex);
    button.querySelector("small").textContent = result ? `${Math.min(99, result.each.psnr[sample]).toFixed(0)} dB` : "–";
    button.setAttribute("aria-pressed", sample === hit.sample);
    for (const one of ["full", method]) loadStrip(sample, one);
  }
}

/** Show the schedule, or in its place the removal order or the scores that it follows from. */
function renderHeatmap(hit) {
  const source = hit ? table.methods[hit.method] : state.plan;
  if (source) document.querySelector("#show")?.classList.toggle("hidden", !source.removal_ratio); // a mask has no order
  if (!heatmap) return;
  const what = source?.removal_ratio ? (state.request.show ?? "decision") : "decision";
  const shown = hit ? galleryShown(hit) : state.plan && planShown(state.plan);
  if (shown) {
    const values = what === "decision" ? null : floats(source[what]);
    heatmap.show({ ...shown, keep: state.edited ?? shown.base, values, what, legend: "schedule" });
  }
  if (restoreSchedule()) render();
}

function galleryShown({ method, ratioIndex }) {
  const { granularity, results } = table.methods[method];
  const graph = table.graphs[granularity];
  const size = table.timesteps.length * graph.units.length;
  if (ratioIndex < 0) return { graph, base: new Uint8Array(size).fill(1), timesteps: table.timesteps, ratio: 0 };
  const result = results[ratioIndex];
  return result && { graph, base: unpack(result.keep, size), timesteps: table.timesteps, ratio: 1 - result.kept };
}

const planShown = ({ graph, keep, timesteps, reached }) => ({ graph, base: unpack(keep, timesteps.length * graph.units.length), timesteps, ratio: reached });

function markSample(hit) {
  for (const button of document.querySelectorAll("#lead .samples button"))
    button.setAttribute("aria-pressed", Number(button.dataset.sample) === hit?.sample);
}

/** Mark under the slider up to which ratio the pictures still show what the prompt says. */
function markSafeZone(hit) {
  const range = document.querySelector("#ratio input[type=range]");
  if (!range) return;
  let zone = document.querySelector("#ratio .safe-zone");
  if (!zone) {
    zone = document.createElement("div");
    zone.className = "safe-zone";
    zone.title = "Up to here a second network finds the right name nearly as often as for the full run";
    range.after(zone);
  }
  const ratio = hit ? safeRatio(table, hit.method) : null;
  zone.hidden = ratio === null;
  Object.assign(zone.style, { left: `${range.offsetLeft}px`, width: `${(range.offsetWidth * (ratio ?? 0)) / range.max}px`, top: `${range.offsetTop + range.offsetHeight + 3}px` });
}

/** Fetch what is shown, and then what the next movements need: this sample by all other methods. */
function preload({ sample, method }) {
  const shown = ["full", method, baselineMethod()].map((one) => loadStrip(sample, one));
  Promise.all(shown).then(() => Object.keys(table?.methods ?? {}).forEach((one) => loadStrip(sample, one)));
}

async function loadStrip(sample, method) {
  if (!strips.get(sample, method) && (await strips.load(sample, method))) scheduleRender();
}

let scheduled = false;
function scheduleRender() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    render();
  });
}
