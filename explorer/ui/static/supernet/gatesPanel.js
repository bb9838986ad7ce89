// The sixth scene: one gate to drag, a recorded search to replay, and the order that it found.

import { percent } from "../text.js";
import { blockName } from "./drawing.js";
import { say } from "./texts.js";

const STEP_MS = 180; // of the replay
const GATE = { call: 2 }; // where the gate to drag is, on the last block but one
const sigmoid = (value) => 1 / (1 + Math.exp(-value));
const [WIDTH, HEIGHT, REACH] = [260, 130, 4]; // of the gate's plot; its number runs from -REACH to REACH

export function gates(lesson, box) {
  const { search } = lesson.data;
  const unit = lesson.choice.width - 2;
  const index = GATE.call * lesson.choice.width + unit; // of the block that the dragged gate opens
  box.innerHTML = `<div class="gate"><label>${say("gate", { block: blockName(lesson.drawing.layout.blocks[index]), call: say("call", GATE) })} <input type="range" min="${-REACH}" max="${REACH}" step="0.1" value="1.2"/></label>
    <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true"><path class="hard" d="M0 110H${WIDTH / 2}V20H${WIDTH}"/><path class="smooth" d="${curve()}"/><path class="slope"/><circle r="6"/></svg>
    <p class="key"><span class="all forward"></span><span class="true backward"></span></p></div>
    <div class="search"><p class="actions"><button type="button" class="secondary" data-speed="1">${say("replay")}</button> <button type="button" class="secondary" data-speed="10">${say("replayFast")}</button></p>
    <p class="note" role="status">${say("replayGoal")}</p><label>${say("ratio")} <input type="range" class="order" min="0" max="0.8" step="0.01" value="0"/></label><p class="note">${say("replayEnd")}</p></div>`;
  const [number, order] = [box.querySelector(".gate input"), box.querySelector(".order")];
  number.oninput = () => {
    drawGate(box.querySelector(".gate"), Number(number.value));
    stop();
    lesson.drawing.tint(null);
    const isOn = Number(number.value) > 0;
    if (Boolean(lesson.choice.keep[index]) !== isOn) lesson.toggle(GATE.call, unit);
  };
  order.oninput = () => {
    stop();
    lesson.drawing.tint(null);
    lesson.setKeep(keepAt(lesson, Number(order.value)));
  };
  let timer;
  const stop = () => clearTimeout(timer);
  const replay = (at, speed) => {
    const scores = search.scores[at].flat();
    lesson.drawing.tint((one) => sigmoid(4 * (scores[one] - 0.5)));
    lesson.setKeep(Uint8Array.from(scores, (score) => (score > 0 ? 1 : 0)));
    order.value = 1 - lesson.choice.kept;
    box.querySelector(".search .note").textContent = say("replayStep", { step: at + 1, steps: search.scores.length, kept: percent(lesson.choice.kept) });
    if (at + 1 < search.scores.length) timer = setTimeout(() => replay(at + 1, speed), STEP_MS / speed);
  };
  box.onclick = ({ target }) => {
    const speed = target.closest("[data-speed]")?.dataset.speed;
    if (!speed) return;
    stop();
    replay(0, Number(speed));
  };
  drawGate(box.querySelector(".gate"), Number(number.value));
  return { wires: true, clickable: false, leave: stop, scale: ["tintShut", "tintOpen"] };
}

const curve = () =>
  Array.from({ length: 53 }, (_, index) => (index / 52) * WIDTH)
    .map((x, index) => `${index ? "L" : "M"}${x.toFixed(1)} ${(110 - 90 * sigmoid(((x / WIDTH) * 2 - 1) * REACH)).toFixed(1)}`)
    .join("");

/** Draw the decision that runs forwards, and the slope that runs backwards in its place (the straight-through estimator). */
function drawGate(box, value) {
  const [share, isOn] = [sigmoid(value), value > 0];
  const slope = share * (1 - share);
  const [x, y] = [((value / REACH + 1) / 2) * WIDTH, 110 - 90 * share];
  const reach = 34;
  const rise = slope * 90 * ((2 * REACH) / WIDTH); // pixels of height per pixel
  box.querySelector(".slope").setAttribute("d", `M${x - reach} ${y + rise * reach}L${x + reach} ${y - rise * reach}`);
  box.querySelector("circle").setAttribute("cx", x);
  box.querySelector("circle").setAttribute("cy", isOn ? 20 : 110);
  box.querySelector(".forward").textContent = say("gateForward", { decision: say(isOn ? "gateKeep" : "gateSkip") });
  box.querySelector(".backward").textContent = say("gateBackward", { slope: slope.toFixed(2) });
}

/** Follow the order that the search found until at least `ratio` of the arithmetic is gone. */
function keepAt({ choice, data }, ratio) {
  const rank = data.search.rank.flat();
  const keepFrom = (first) => Uint8Array.from(rank, (one) => (one >= first ? 1 : 0));
  const share = (keep) => choice.costOf(keep);
  let first = 0;
  while (first < rank.length - choice.width && 1 - share(keepFrom(first)) < ratio - 1e-9) first++;
  return keepFrom(first);
}
