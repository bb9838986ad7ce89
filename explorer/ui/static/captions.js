// The captions of the pictures: facts of each, the cost, what a schedule amounts to, which method leads. Numbers in, markup
// out; what a visitor typed is escaped. All take { table, hit, state, baseline, plan, metrics, samplers } of render.js;
// `metrics` are the rows of measures/table.py by name, `samplers` their titles.

import { SAME_DB } from "./headline.js";
import { cost, unpack } from "./schedule.js";

const NONE = "–";
const TOLERATED_LOSS = 0.05; // of retrieval, within the safe zone
const TIE_DB = 0.05;
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const giga = (macs) => (macs < 1e12 ? Number((macs / 1e9).toPrecision(3)) : Math.round(macs / 1e9)).toLocaleString("en");
const interval = ([mean, low, high], digits) => `${mean.toFixed(digits)} [${low.toFixed(digits)}, ${high.toFixed(digits)}]`;
const range = ([, low, high], digits) => `95 % ${low.toFixed(digits)} to ${high.toFixed(digits)}`;
const term = (word, meaning) => `<abbr title="${escaped(meaning)}" tabindex="0">${word}</abbr>`;
const metricTerm = ({ label, help }) => term(label, help);
const metricValue = ({ digits, unit }, value) => value.toFixed(digits) + (unit && ` ${unit}`);

const MACS = term("MACs", "Multiply-accumulate operations: the arithmetic that the network does.");
const TITLES = { original: "Original", pruned: "Pruned", baseline: "Same cost, fewer steps" };
const WHOLE = "Nothing is left out: this is the full run.";

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
    [`${MACS} kept`, isNone(kept) ? NONE : percent(kept, 1)],
    ["seconds", isNone(seconds) ? NONE : seconds.toFixed(2)],
    [metricTerm(ssim), isNone(ssimValue) ? NONE : metricValue(ssim, ssimValue)],
    [metricTerm(psnr), isNone(psnrValue) ? NONE : psnrValue >= SAME_DB ? "same" : metricValue(psnr, psnrValue)],
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
  if (!result) return { what: `${title} cannot remove ${percent(table.ratios[ratioIndex])}`, rows: factRows(metrics), empty: true };
  const what = role === "baseline" ? title.replace("fewer", result.steps) : `${title}, ${percent(1 - result.kept)} of the MACs skipped`;
  return { what, rows: factRows(metrics, result.kept, result.seconds, result.each.ssim[sample], result.each.psnr[sample]) };
}

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
    ["removed", percent(1 - kept, 1), editedNote(state)],
    ["MACs kept", percent(kept, 1), `${giga(kept * plan.macs_total)} of ${giga(plan.macs_total)} G`],
  ];
}

function planTiles({ plan, samplers }) {
  const asked = plan.asked === null ? NONE : percent(plan.asked, 1);
  return [
    ["asked", asked, plan.asked === null ? "the settings name the schedule" : "of the MACs to remove"],
    ["reached", percent(plan.reached, 1), `at most ${percent(plan.max_ratio, 1)} is possible`],
    ["MACs kept", percent(plan.kept, 1), `${giga(plan.macs_kept)} of ${giga(plan.macs_total)} G`],
    ["same cost", `${plan.baseline_steps} steps`, `${samplers[plan.baseline_sampler]}, ${percent(plan.baseline_kept, 1)} of MACs`],
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
    ["removed", percent(1 - kept, 1), state.edited ? editedNote(state) : "of the trajectory's MACs"],
    ["MACs kept", percent(kept, 1), `${giga(kept * total)} of ${giga(total)} G`],
  ];
  if (state.edited || !result) return tiles;
  const [speedup, low, high] = result.speedup;
  const n = table.samples.length;
  return [
    ...tiles,
    ["measured speed", `${speedup.toFixed(2)}×`, `${low.toFixed(2)} to ${high.toFixed(2)}; ideal is ${(1 / result.kept).toFixed(2)}×`],
    ["all samples", metricValue(metrics.psnr, result.means.psnr[0]), `${range(result.means.psnr, metrics.psnr.digits)}, n = ${n}`],
    ...scoredTiles(result, hit.sample, n, metrics),
  ];
}

/** What a second network, which never taught the first, makes of the pictures; nothing where it scored none. */
function scoredTiles({ means, each }, sample, n, { retrieval_top5, clip_score }) {
  if (!means.clip || !means.top5) return [];
  const here = metricValue(clip_score, each.clip[sample]);
  return [
    [metricTerm(retrieval_top5), percent(means.top5[0]), `here the right name comes ${ordinal(each.rank[sample] + 1)}; n = ${n}`],
    [metricTerm(clip_score), metricValue(clip_score, means.clip[0]), `${range(means.clip, clip_score.digits)}; here ${here}`],
  ];
}

const ordinal = (place) => `${place}${["th", "st", "nd", "rd"][place % 100 > 10 && place % 100 < 14 ? 0 : place % 10] ?? "th"}`;

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
    const kept = graph.units.filter((_, unit) => row[unit] === "1").map((unit) => unit.name.replaceAll("_blocks", "").replaceAll(".", " "));
    return `Keeps ${list(kept)} at every call and the rest at ${whole} of ${calls}: the pattern of DeepCache.`;
  }
  const often = graph.units.map((unit, column) => [unit.name, rows.filter((row) => row[column]).length]).sort((a, b) => b[1] - a[1]);
  const [most, least] = [often[0], often.at(-1)].map(([name, count]) => `<code>${escaped(name)}</code> (${count})`);
  return `Of ${calls} calls, ${whole} are computed whole, ${calls - whole - none} in part and ${none} not at all. ${most} runs most often, ${least} least often.`;
}

function describeWholeCalls(whole, calls, order, sampler) {
  const start = `Computes ${whole} of ${calls} calls whole and skips the others`;
  if (order) return `${start}, where the estimate of the noise is extrapolated from the calls before.`;
  if (sampler !== "ddim") return `${start}, where the last estimate is reused.`;
  return `${start}: under DDIM that <b>is</b> a sampler of ${whole} steps that visits just these timesteps.`;
}

const list = (names) => (names.length > 3 ? `${names.length} of the units` : names.join(" and "));

function safeSentence({ table, hit, state, metrics }) {
  if (!hit || state.edited) return "";
  const ratio = safeRatio(table, hit.method);
  if (ratio === null) return "";
  const whole = percent(table.original.means.top5[0]);
  const retrieval = term("retrieval", metrics.retrieval_top5.help);
  return `Up to <b>${percent(ratio)}</b> removed, ${retrieval} falls by less than ${100 * TOLERATED_LOSS} points from the ${whole} of the full run.`;
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
  if (Math.abs(leader.lead[0]) < TIE_DB) return `At this cost <b>${title}</b> and <b>${runnerUp}</b> are equally near to the full run.`;
  const noise = leader.lead[1] > 0 ? "" : ", which is within noise";
  const own = hit.method === leader.method ? "" : ` <b>${escaped(table.methods[hit.method].title)} does not win here.</b>`;
  const { digits, unit } = metrics.psnr;
  return `At this cost <b>${title}</b> is nearest to the full run: ${interval(leader.lead, digits)} ${unit} ahead of ${runnerUp}, nearer for ${leader.higher} of ${leader.n} pictures${noise}.${own}`;
}
