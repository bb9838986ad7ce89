// The third scene: the run as a path in the plane. Its points are the latents of the real run, seen along the two directions in
// which they move most (assets/lesson/lesson.json has them for every choice of calls).

import { percent } from "../text.js";
import { segments } from "./parts.js";
import { say } from "./texts.js";

const [WIDTH, HEIGHT, MARGIN] = [520, 300, 24];

export function path(lesson, box) {
  const { path: paths, steps } = lesson.data;
  const toPlane = fit([...paths.true, ...Object.values(paths.runs).flatMap((runs) => Object.values(runs).flat())]);
  const line = (points) => points.map(toPlane).map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const dots = (points, name) => points.map(toPlane).map(([x, y]) => `<circle class="${name}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="4"/>`).join("");
  const axes = say("pathAxes", { count: paths.numbers.toLocaleString(lesson.language), share: percent(paths.shares[0] + paths.shares[1], 1) });
  box.innerHTML = `<div class="path"><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${axes}"></svg><p class="note">${axes}</p></div>
    <div><p class="key"><span class="true">${say("pathTrue")}</span><span class="all">${say("pathAll")}</span><span class="yours"></span></p>
    <p class="said" role="status"></p>${segments("order", { 0: say("hold"), 1: say("extrapolate") }, "0")}</div>`;
  box.onchange = () => update();
  const update = () => {
    const { choice } = lesson;
    const made = Array.from({ length: steps }, (_, call) => choice.keep[(call + 1) * choice.width - 1]).join("");
    const order = box.querySelector("input:checked").value;
    const [all, yours] = [paths.runs[0]["1".repeat(steps)], paths.runs[order][made]];
    box.querySelector("svg").innerHTML = `<path class="true" d="${line(paths.true)}"/><path class="all" d="${line(all)}"/>${dots(all, "all")}<path class="yours" d="${line(yours)}"/>${dots(yours, "yours")}`;
    box.querySelector(".key .yours").textContent = say("pathYours", { made: [...made].filter((one) => one === "1").length });
    const distance = Math.hypot(...yours.at(-1).map((value, axis) => value - all.at(-1)[axis]));
    box.querySelector(".said").textContent = say("pathEnd", { distance: distance.toFixed(1) });
    lesson.showPictures("predicted");
  };
  return { wires: false, clickable: true, onlyCalls: true, update };
}

/** Make the function that puts points of the data into the plot, at one scale for both directions. */
function fit(points) {
  const range = (axis) => [Math.min(...points.map((one) => one[axis])), Math.max(...points.map((one) => one[axis]))];
  const [[left, right], [low, high]] = [range(0), range(1)];
  const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left), (HEIGHT - 2 * MARGIN) / (high - low));
  const [marginX, marginY] = [(WIDTH - scale * (right - left)) / 2, (HEIGHT - scale * (high - low)) / 2];
  return ([x, y]) => [marginX + scale * (right - x), marginY + scale * (y - low)];
}
