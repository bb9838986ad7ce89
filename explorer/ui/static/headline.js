// The task that the page sets, and the two numbers that answer it: how much arithmetic is left, and how close the picture is.
// All take what render.js gathers: { hit, state, plan, table }.

import { cost } from "./schedule.js";

export const SAME_DB = 65; // of pictures that are the same
// In words, from which PSNR to the original on; above 40 dB no difference is visible (measures/table.py).
const CLOSENESS = [
  [SAME_DB, "identical"],
  [40, "no difference to be seen"],
  [30, "a slight difference"],
  [22, "a clear difference"],
  [-Infinity, "another picture"],
];

/** Name how close a picture is to the original. */
export const closeness = (psnr) => CLOSENESS.find(([from]) => psnr >= from)[1];

/** Ask whether what is skipped can be seen. */
export function taskSentence(shown) {
  const { kept, psnr } = measured(shown);
  if (shown.state.isSaid && psnr !== undefined) {
    return kept > 0.9995 ? "Nothing is skipped: this is the full run" : `${Math.round(100 * (1 - kept))} % skipped: ${closeness(psnr)}`;
  }
  if (kept === undefined) return "Skip a part of the work: can you see it?";
  if (kept > 0.9995) return "Nothing is skipped. Move the slider: when do you see it?";
  return `Skip ${Math.round(100 * (1 - kept))} % of the work: can you see it?`;
}

/** Write the two numbers. */
export function headlineMarkup(shown) {
  const { kept, psnr } = measured(shown);
  const left = kept === undefined ? "–" : `${(100 * kept).toFixed(0)}<small> %</small>`;
  const db = psnr === undefined ? "–" : psnr >= SAME_DB ? "=" : `${psnr.toFixed(1)}<small> dB</small>`;
  const words = psnr === undefined ? "press Generate to see it" : closeness(psnr);
  return `<div><dt>arithmetic left</dt><dd>${left}</dd></div><div><dt>closeness to the original: ${words}</dt><dd>${db}</dd></div>`;
}

/** Find the share of the arithmetic that is left and the PSNR to the original, as far as they are known. */
function measured({ hit, state, plan, table }) {
  if (state.generated) return { kept: state.generated.cards.pruned.kept, psnr: state.generated.cards.pruned.psnr ?? undefined };
  if (hit) {
    const { granularity, results } = table.methods[hit.method];
    const result = hit.ratioIndex < 0 ? { kept: 1, each: { psnr: [] } } : results[hit.ratioIndex];
    if (state.edited) return { kept: cost(table.graphs[granularity], state.edited).kept };
    return { kept: result?.kept, psnr: hit.ratioIndex < 0 ? 100 : result?.each.psnr[hit.sample] };
  }
  if (state.edited && plan) return { kept: cost(plan.graph, state.edited).kept };
  return { kept: plan?.kept };
}
