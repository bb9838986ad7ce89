// The captions of the pictures: facts of each, the cost, what a schedule amounts to, which method leads. Numbers in, markup
// out; what a visitor typed is escaped. All take { table, hit, state, baseline, plan, metrics, samplers } of render.js;
// `metrics` are the rows of measures/table.py by name, `samplers` their titles.

import { SAME_DB } from "./headline.js";
import { cost, unpack } from "./schedule.js";
import { parts } from "./state.js";
import { escaped, giga, percent } from "./text.js";

const NONE = "–";
const TOLERATED_LOSS = 0.05; // of retrieval, within the safe zone
const TIE_DB = 0.05;
const range = ([, low, high], digits) => `95 %: ${low.toFixed(digits)} to ${high.toFixed(digits)}`;
const term = (word, meaning) => `<abbr title="${escaped(meaning)}" tabindex="0">${word}</abbr>`;
const metricTerm = ({ label, help }) => term(label, help);
const metricValue = ({ digits, unit }, value) => value.toFixed(digits) + (unit && ` ${unit}`);

const ARITHMETIC = "Counted in multiply-accumulate operations (MACs) of the network, compared with the full run.";
const LEFT = term("arithmetic left", ARITHMETIC);
const TITLES = { original: "Original", pruned: "Pruned", baseline: "Same cost, fewer steps" };
const WHOLE = "Nothing is skipped: this is the full run.";
const [MIN_OF_IDEAL, MAX_OF_IDEAL] = [0.5, 1.5]; // a measured speed beyond or below tells of a busy machine

/** Name the method that is nearest to the full run at a ratio, on average over the gallery. */
export function winner({ methods }, ratioIndex) {
  if (ratioIndex < 0) return undefined;
  const psnr = (name) => methods[name].results[ratioIndex].means.psnr[0];
  const inRange = Object.keys(methods).filter((name) => methods[name].results[ratioIndex]);
  return inRange.sort((a, b) => psnr(b) - psnr(a))[0];
}

/** List title, words and facts of the three pictures, by role. */
export function cardFacts(shown) {
  const { hit, state, metrics } = shown;
  const ofRole = (role, title) => {
    if (state.generated) return { title, ...generatedFacts(state.generated.cards[role], metrics) };
    if (hit) return { title, ...galleryFacts(shown, role) };
    return { title, what: "Press Generate", rows: factRows(metrics), empty: true };
  };
  return Object.fromEntries(Object.entries(TITLES).map(([role, title]) => [role, ofRole(role, title)]));
}

function factRows({ ssim, psnr }, kept, seconds, ssimValue, psnrValue) {
  const isNone = (value) => value === undefined || value === null;
  return [
    [LEFT, isNone(kept) ? NONE : percent(kept, 1)],
    ["seconds", isNone(seconds) ? NONE : seconds.toFixed(2)],
    [metricTerm(ssim), isNone(ssimValue) ? NONE : metricValue(ssim, ssimValue)],
    [metricTerm(psnr), isNone(psnrValue) ? NONE : psnrValue >= SAME_DB ? "identical" : metricValue(psnr, psnrValue)],
  ];
}

function generatedFacts(card, metrics) {
  return {
    what: card.what,
    done: card.done ? 1 : card.call / card.calls,
    counter: card.call && !card.done ? `call ${card.call} of ${card.calls}` : "",
    rows: factRows(metrics, card.kept, card.call ? card.seconds : undefined, card.ssim, card.psnr),
    empty: !card.picture,
  };
}

function galleryFacts({ table, hit, baseline, metrics, samplers }, role) {
  const { sample, method, ratioIndex } = hit;
  const whole = { what: `${samplers[table.sampler]}, ${table.steps} calls`, rows: factRows(metrics, 1, table.original.seconds, 1, 100) };
  if (role === "original" || ratioIndex < 0) return whole;
  const { title, results } = table.methods[role === "baseline" ? baseline : method];
  const result = results[ratioIndex];
  if (!result) return { what: `${title} cannot skip ${percent(table.ratios[ratioIndex])}`, rows: factRows(metrics), empty: true };
  const what = role === "baseline" ? title.replace("fewer", result.steps) : `${title}, ${percent(1 - result.kept)} skipped`;
  const seconds = isPlausible(result) ? result.seconds : undefined;
  return { what, rows: factRows(metrics, result.kept, seconds, result.each.ssim[sample], result.each.psnr[sample]) };
}

/** Tell whether a measured speed can be what keeping a share of the arithmetic saves, and not what else the machine did. */
export const isPlausibleSpeed = (speed, kept) => speed * kept < MAX_OF_IDEAL && speed * kept > MIN_OF_IDEAL;
const isPlausible = ({ speedup: [speed], kept }) => isPlausibleSpeed(speed, kept);

/** Write the cost in numbers. */
export function tileMarkup(shown) {
  const { hit, state, plan } = shown;
  const tiles = hit ? galleryTiles(shown) : !plan ? [] : state.edited ? editedTiles(plan, state) : planTiles(shown);
  return tiles.map(([name, value, note]) => `<div><dt>${name}</dt><dd>${value}</dd><dd>${note}</dd></div>`).join("");
}

const editedNote = ({ generated }) => (generated ? "edited by hand" : "edited by hand: press Generate to see it");

function editedTiles(plan, state) {
  const { kept } = cost(plan.graph, state.edited);
  return [
    ["arithmetic skipped", percent(1 - kept, 1), editedNote(state)],
    ["arithmetic left", percent(kept, 1), `${giga(kept * plan.macs_total)} of ${giga(plan.macs_total)} GMACs`],
  ];
}

function planTiles({ plan, samplers }) {
  const asked = plan.asked === null ? NONE : percent(plan.asked, 1);
  return [
    ["asked for", asked, plan.asked === null ? "the settings name the schedule" : "of the arithmetic to skip"],
    ["arithmetic skipped", percent(plan.reached, 1), `at most ${percent(plan.max_ratio, 1)} is possible`],
    ["arithmetic left", percent(plan.kept, 1), `${giga(plan.macs_kept)} of ${giga(plan.macs_total)} GMACs`],
    ["same cost", steps(plan.baseline_steps), `${samplers[plan.baseline_sampler]}, ${percent(plan.baseline_kept, 1)} of the arithmetic`],
  ];
}

function galleryTiles({ table, hit, state, metrics }) {
  const method = table.methods[hit.method];
  const graph = table.graphs[method.granularity];
  const result = hit.ratioIndex < 0 ? null : method.results[hit.ratioIndex];
  const perCall = graph.units.reduce((sum, unit) => sum + unit.macs, graph.macs_fixed);
  const total = perCall * table.timesteps.length;
  const kept = state.edited ? cost(graph, state.edited).kept : result ? result.kept : 1;
  const tiles = [
    ["arithmetic skipped", percent(1 - kept, 1), state.edited ? editedNote(state) : "of all calls together"],
    ["arithmetic left", percent(kept, 1), `${giga(kept * total)} of ${giga(total)} GMACs`],
  ];
  if (state.edited || !result) return tiles;
  const [speedup, low, high] = result.speedup;
  const n = table.samples.length;
  return [
    ...tiles,
    isPlausible(result)
      ? ["measured speed", `${speedup.toFixed(2)}×`, `${low.toFixed(2)} to ${high.toFixed(2)}; ideal is ${(1 / result.kept).toFixed(2)}×`]
      : ["ideal speed", `${(1 / result.kept).toFixed(2)}×`, "the machine was busy when this was measured"],
    [`closeness, mean of ${n} scenes`, metricValue(metrics.psnr, result.means.psnr[0]), range(result.means.psnr, metrics.psnr.digits)],
    ...scoredTiles(result, hit.sample, n, metrics),
  ];
}

/** What a second network, which never taught the first, makes of the pictures; nothing where it scored none. */
function scoredTiles({ means, each }, sample, n, { retrieval_top5, clip_score }) {
  if (!means.clip || !means.top5) return [];
  const here = metricValue(clip_score, each.clip[sample]);
  return [
    [metricTerm(retrieval_top5), percent(means.top5[0]), `of ${n} scenes; on this one the right name comes ${ordinal(each.rank[sample] + 1)}`],
    [metricTerm(clip_score), metricValue(clip_score, means.clip[0]), `${range(means.clip, clip_score.digits)}; here ${here}`],
  ];
}

const ordinal = (place) => `${place}${["th", "st", "nd", "rd"][place % 100 > 10 && place % 100 < 14 ? 0 : place % 10] ?? "th"}`;

const steps = (number) => (number === 1 ? "1 step" : `${number} steps`);

/** Write in sentences what the schedule amounts to, up to where it is safe, and which method leads at this cost. */
export function captionMarkup(shown) {
  const sentences = [scheduleSentence(shown), safeSentence(shown), leaderSentence(shown)].filter(Boolean);
  return sentences.map((sentence) => `<p>${sentence}</p>`).join("");
}

function scheduleSentence({ table, hit, state, plan }) {
  if (!hit) return plan ? describeSchedule(plan, state.edited ?? unpack(plan.keep, plan.timesteps.length * plan.graph.units.length)) : "";
  const { granularity, results, settings_at, order: sameOrder } = table.methods[hit.method];
  const graph = table.graphs[granularity];
  const result = results[hit.ratioIndex];
  if (!state.edited && hit.ratioIndex < 0) return WHOLE;
  if (!state.edited && !result) return "";
  const keep = state.edited ?? unpack(result.keep, table.timesteps.length * graph.units.length);
  const order = settings_at?.[hit.ratioIndex]?.order ?? sameOrder;
  return describeSchedule({ graph, timesteps: table.timesteps, order, sampler: table.sampler }, keep);
}

/** Describe a schedule: whole calls, a DeepCache-like pattern, or units that are skipped one by one. */
export function describeSchedule({ graph, timesteps, order, sampler }, keep) {
  const [calls, width] = [timesteps.length, graph.units.length];
  const rows = Array.from({ length: calls }, (_, call) => Array.from(keep.subarray(call * width, (call + 1) * width)));
  const counts = rows.map((row) => row.filter(Boolean).length);
  const whole = counts.filter((count) => count === width).length;
  const none = counts.filter((count) => count === 0).length;
  if (whole === calls) return WHOLE;
  if (whole + none === calls) return describeWholeCalls(whole, calls, order, sampler);
  const partial = new Set(rows.filter((_, call) => counts[call] && counts[call] < width).map((row) => row.join("")));
  if (partial.size === 1 && !none) {
    const [row] = partial;
    const kept = graph.units.filter((_, unit) => row[unit] === "1").map((unit) => inWords(unit.name));
    return `Keeps ${list(kept)} at every call and the rest at ${whole} of ${calls}: the pattern of DeepCache.`;
  }
  const often = graph.units.map((unit, column) => [unit.name, rows.filter((row) => row[column]).length]).sort((a, b) => b[1] - a[1]);
  const [most, least] = [often[0], often.at(-1)].map(([name, count]) => `<span title="${escaped(name)}">${escaped(inWords(name))}</span> (${count})`);
  return `Of ${calls} calls, ${whole} ${whole === 1 ? "is" : "are"} computed whole, ${calls - whole - none} in part and ${none} not at all. Most often runs ${most}, least often ${least}.`;
}

/** Name a layer as the charts do: `plain_name` of `figures.style`. */
function inWords(name) {
  return parts.view.props.plainNames.reduce((named, [path, words]) => named.replace(new RegExp(path, "g"), words), name).replaceAll(".", " ");
}

function describeWholeCalls(whole, calls, order, sampler) {
  const start = `Computes ${whole} of ${calls} calls whole and skips the others`;
  if (order) return `${start}, where the output is extrapolated from the calls before.`;
  if (sampler !== "ddim") return `${start}, where the last estimate is reused.`;
  return `${start}: under DDIM that <b>is</b> a sampler of ${whole} steps that visits just these timesteps.`;
}

const list = (names) => (names.length > 3 ? `${names.length} of the units` : names.join(" and "));

function safeSentence({ table, hit, state, metrics }) {
  if (!hit || state.edited) return "";
  const ratio = safeRatio(table, hit.method);
  if (ratio === null) return "";
  const whole = percent(table.original.means.top5[0]);
  const recognised = term("recognised", metrics.retrieval_top5.help);
  return `Up to <b>${percent(ratio)}</b> skipped, the pictures are still ${recognised} almost as often as the original (within ${100 * TOLERATED_LOSS} points of ${whole}).`;
}

/** Find the largest ratio up to which retrieval falls by less than TOLERATED_LOSS; null where it is not known. */
export function safeRatio(table, name) {
  const floor = table.original.means.top5?.[0] - TOLERATED_LOSS;
  if (Number.isNaN(floor)) return null;
  let safe = 0;
  for (const [index, result] of table.methods[name].results.entries()) {
    if (!result || result.means.top5[0] < floor) break;
    safe = table.ratios[index];
  }
  return safe;
}

function leaderSentence({ table, hit, state, metrics }) {
  const leader = hit && hit.ratioIndex >= 0 && !state.edited && table.leaders[hit.ratioIndex];
  if (!leader) return "";
  const [title, runnerUp] = [leader.method, leader.runner_up].map((name) => escaped(table.methods[name].title));
  const scenes = `mean of ${leader.n} scenes`;
  if (Math.abs(leader.lead[0]) < TIE_DB) return `★ At this cost <b>${title}</b> and <b>${runnerUp}</b> are equally close to the original (${scenes}).`;
  const noise = leader.lead[1] > 0 ? "" : ", which is within noise";
  const { digits, unit } = metrics.psnr;
  const lead = `${leader.lead[0].toFixed(digits)} ${unit} closer than ${runnerUp} on average (${range(leader.lead, digits)}), on ${leader.higher} of ${leader.n} pictures`;
  return `★ At this cost <b>${title}</b> is closest to the original: ${lead}${noise}.${ownPlace(table, hit, leader, metrics.psnr)}`;
}

/** Say where the chosen method stands, if it does not lead on average, and who leads on this scene, if that is another. */
function ownPlace({ methods }, { method, sample, ratioIndex }, leader, { digits, unit }) {
  const here = (name) => methods[name].results[ratioIndex]?.each.psnr[sample] ?? -Infinity;
  const best = Object.keys(methods).reduce((one, other) => (here(other) > here(one) ? other : one));
  const own = method === leader.method ? "" : ` <b>${escaped(methods[method].title)} is not the closest here.</b>`;
  const scene = here(best) - here(leader.method) < TIE_DB ? "" : ` On this scene it is ${escaped(methods[best].title)}, with ${here(best).toFixed(digits)} ${unit}.`;
  return own + scene;
}
