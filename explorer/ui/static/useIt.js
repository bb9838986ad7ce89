// "Use it": what is shown on a tab, as lines of Python, commands, a file, and a report. Python sends plain values, which are
// written as text; what was measured is known here alone.

import { isPlausibleSpeed } from "./captions.js";
import { binary, fillCommands, fillTable, mountDrawer, openDrawer, saveFile } from "./drawer.js";
import { baselineMethod, galleryHit } from "./galleryLookup.js";
import { paintReport } from "./report.js";
import { pack } from "./schedule.js";
import { parts, state, table } from "./state.js";

const DEFAULT_MODEL = "./my-model";
const NONE = "–";
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const times = (factor) => `${factor.toFixed(2)}×`;

export function mountUseIt({ element, props, watch }) {
  const dialog = mountDrawer(element);
  const find = (selector) => element.querySelector(selector);
  const [about, content, model] = [".about", ".content", ".own-model"].map(find);
  let shown = null; // what Python sent, and what was measured

  const writeCommands = () => fillCommands(find(".commands"), shown.commands, model.value.trim() || DEFAULT_MODEL);

  function receive() {
    if (!props.value) return;
    const value = JSON.parse(JSON.stringify(props.value));
    content.hidden = Boolean(value.error);
    about.textContent = value.error ?? value.title;
    about.classList.toggle("alert", Boolean(value.error));
    if (value.error) return;
    const measured = measuredNow(value);
    shown = { ...value, measured, rows: costRows(value.saves, measured), link: linkOf(value.query) };
    fillTable(find(".saves table"), shown.rows, true);
    find(".saves .hint").textContent = measured.note;
    find(".name").textContent = value.file.name;
    find(".holds").textContent = value.holds;
    find(".python").textContent = value.python;
    find(".note").textContent = value.note;
    writeCommands();
  }

  document.addEventListener("click", ({ target }) => {
    if (!target.closest("button.use-it")) return;
    Object.assign(about, { textContent: "One moment." });
    about.classList.remove("alert");
    content.hidden = true;
    openDrawer(dialog);
  });
  model.addEventListener("input", () => shown && writeCommands());
  find(".download").addEventListener("click", () => saveFile(shown.file.name, binary(shown.file.content)));
  const stem = () => shown.file.name.replace(".safetensors", "-report");
  find(".report-json").addEventListener("click", () => saveFile(`${stem()}.json`, new Blob([reportJson(shown)], { type: "application/json" })));
  find(".report-png").addEventListener("click", async () => saveFile(`${stem()}.png`, await paintReport(shown)));
  watch("value", receive);
}

/** List the values of Explore's controls as its pictures show them: the gallery's nearest ratio, and at the end the
 * schedule that was edited. */
export function shownValues(names, values) {
  const hit = state.request.prompt !== undefined && !state.generated && galleryHit();
  const ratio = hit && (hit.ratioIndex < 0 ? 0 : table.ratios[hit.ratioIndex]);
  const shown = names.map((name, index) => (name === "ratio" && hit ? ratio : values[index]));
  return [...shown, state.edited ? pack(state.edited) : ""];
}

/** Make the address at which this is shown. */
const linkOf = (query) => (query ? `${location.origin}${location.pathname}?${query}` : location.href);

// -- what was measured

/** Find the seconds and the PSNR of the three pictures that are shown, and the pictures; empty where none is of this mask. */
function measuredNow({ place, saves, generated, edited }) {
  if (place === "explore") return measuredOnExplore(saves, edited);
  const box = document.querySelector({ masks: "#mask-pictures", widths: "#widths-generated" }[place] ?? "#none");
  const isStale = edited || (generated && box?.querySelector(".footer")?.textContent !== generated);
  const cards = isStale || !box ? [] : [...box.querySelectorAll(".card[data-seconds]")];
  if (!cards.length) return nothingMeasured(place);
  const facts = Object.fromEntries(cards.map((card) => [card.dataset.role, { seconds: Number(card.dataset.seconds), psnr: number(card.dataset.psnr), image: card.querySelector("img") }]));
  return { facts, note: HERE };
}

const HERE = "Seconds and closeness are of the pictures that are shown, measured on the machine of this page, once.";
const number = (text) => (text === undefined || text === "" ? undefined : Number(text));
const nothingMeasured = (place) => ({ facts: {}, note: place === "optimize" ? "Time and closeness are measured on Masks: press Generate there." : "Press Generate on this tab to measure time and closeness." });

function measuredOnExplore({ hardware }, edited) {
  if (!parts.view) return nothingMeasured("explore");
  const canvases = [...parts.view.element.querySelectorAll(".viewer .card")].map((card) => [card.dataset.role, card.querySelector(".picture")]);
  const images = Object.fromEntries(canvases.filter(([, canvas]) => canvas.width));
  const withImages = (facts) => Object.fromEntries(Object.entries(facts).map(([role, own]) => [role, { ...own, image: images[role] }]));
  if (state.generated) {
    const facts = Object.entries(state.generated.cards).filter(([, card]) => card.done);
    return { facts: withImages(Object.fromEntries(facts.map(([role, { seconds, psnr }]) => [role, { seconds, psnr: role === "original" ? undefined : (psnr ?? undefined) }]))), note: HERE };
  }
  const hit = galleryHit();
  if (!hit || edited) return nothingMeasured("explore");
  const { original, methods } = table;
  const of = (name) => (hit.ratioIndex < 0 ? original : methods[name].results[hit.ratioIndex]);
  const [pruned, baseline] = [of(hit.method), of(baselineMethod())];
  const fact = (result) => result && { seconds: result.seconds, psnr: result.each?.psnr?.[hit.sample], speedup: result.speedup?.[0] };
  const title = hit.ratioIndex < 0 || !baseline ? undefined : methods[baselineMethod()].title.replace("fewer", baseline.steps);
  return {
    facts: withImages({ original: { seconds: original.seconds }, pruned: fact(pruned), baseline: fact(baseline) }),
    ...{ baseline: title, baselineKept: baseline?.kept },
    note: `Time was measured on ${hardware}, over ${table.samples.length} pictures; closeness is that of the pictures that are shown.`,
  };
}

/** List rows of a table: a name, and a value each for the full run, this mask and the baseline. */
function costRows({ full, kept, params, baseline, baselineKept }, { facts, ...measured }) {
  const { original, pruned, baseline: other } = facts;
  const keptThere = measured.baselineKept ?? baselineKept;
  const seconds = (fact, share) => {
    if (!fact?.seconds) return NONE;
    const speed = fact.speedup ?? (original?.seconds && fact !== original ? original.seconds / fact.seconds : undefined);
    if (speed && !isPlausibleSpeed(speed, share)) return "– (the machine was busy)";
    return `${fact.seconds.toFixed(2)} s${speed ? ` (${times(speed)})` : ""}`;
  };
  const closeness = (fact) => (fact?.psnr === undefined ? NONE : fact.psnr > 99 ? "the same" : `${fact.psnr.toFixed(1)} dB`);
  return [
    ["", full, "this", measured.baseline ?? baseline],
    ["arithmetic (MACs) left", percent(1), percent(kept), percent(keptThere)],
    ...(params < 1 ? [["parameters left", percent(1), percent(params), percent(1)]] : []),
    ["ideal speed", times(1), times(1 / kept), times(1 / keptThere)],
    ["measured time", seconds(original, 1), seconds(pruned, kept), seconds(other, keptThere)],
    ["closeness to the full run", NONE, closeness(pruned), closeness(other)],
  ];
}

/** Write all values. */
function reportJson({ title, report, rows, link, measured, map, saves }) {
  const facts = Object.fromEntries(Object.entries(measured.facts).map(([role, fact]) => [role, { seconds: fact?.seconds, psnr: fact?.psnr }]));
  const baseline = { name: measured.baseline ?? saves.baseline, kept_macs: measured.baselineKept ?? saves.baselineKept };
  return JSON.stringify({ title, link, saved: new Date().toISOString(), ...report, baseline, measured: { ...facts, note: measured.note }, table: rows, map }, null, 1);
}
