// The third scene: what the picture is thought to be after each call, as a path in the plane: the predictions of the real run, seen
// along the two directions in which they change most (assets/lesson/lesson.json has them for every choice of calls).

import { percent } from "../text.js";
import { segments } from "./parts.js";
import { say } from "./texts.js";

const [WIDTH, HEIGHT, MARGIN] = [460, 260, 24];
const NEAR = 8; // what is much farther from the middle than this is drawn closer

export function path(lesson, box) {
  const { path: paths, steps } = lesson.data;
  const toPlane = fit([...paths.true, ...Object.values(paths.runs[0]).flatMap(({ points }) => points)]);
  const line = (points) => points.map(toPlane).map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const dots = (points, name) => points.map(toPlane).map(([x, y], call) => `<circle class="${name}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="5"><title>${say("call", { call })}</title></circle>`).join("");
  const axes = say("pathAxes", { count: paths.numbers.toLocaleString(lesson.language), share: percent(paths.shares[0] + paths.shares[1]) });
  box.innerHTML = `<div class="path"><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${axes}"></svg></div>
    <p class="key"><span class="true">${say("pathTrue")}</span><span class="all">${say("pathAll")}</span><span class="yours"></span></p>
    ${segments("order", { 0: say("hold"), 1: say("extrapolate") }, "0")}<p class="note">${axes}</p>`;
  const order = () => box.querySelector("input:checked").value;
  const made = () => Array.from({ length: steps }, (_, call) => lesson.choice.keep[(call + 1) * lesson.choice.width - 1]).join("");
  const [start, end] = [paths.runs[0]["1".repeat(steps)].points[0], paths.runs[0]["1".repeat(steps)].points.at(-1)].map(toPlane);
  const label = ([x, y], text, anchor) => `<text x="${x}" y="${y - 12}" text-anchor="${anchor}">${text}</text>`;
  const update = () => {
    const [all, yours] = [paths.runs[0]["1".repeat(steps)].points, paths.runs[order()][made()].points];
    box.querySelector("svg").innerHTML = `<path class="true" d="${line(paths.true)}"/><path class="all" d="${line(all)}"/>${dots(all, "all")}<path class="yours" d="${line(yours)}"/>${dots(yours, "yours")}
      ${label(start, say("pathStart"), "start")}${label(end, say("pathEnd"), "middle")}`;
    box.querySelector(".key .yours").textContent = say("pathYours", { made: [...made()].filter((one) => one === "1").length, all: steps });
  };
  box.onchange = () => lesson.update();
  const numRuns = 2 ** (steps - 1);
  const lastPicture = () => (order() === "1" ? lesson.tile("extrapolated", Object.keys(paths.runs[1]).indexOf(made()), numRuns) : undefined);
  return { wires: false, clickable: true, onlyCalls: true, onlyFirstScene: true, update, lastPicture, psnr: () => paths.runs[order()][made()].psnr };
}

/** Make the function that puts points of the data into the plot, at one scale for both directions; what is far from the middle is
 * drawn closer. */
function fit(points) {
  const closer = ([x, y]) => {
    const far = Math.hypot(x, y) / NEAR;
    const factor = far ? Math.asinh(far) / far : 1;
    return [x * factor, y * factor];
  };
  const all = points.map(closer);
  const range = (axis) => [Math.min(...all.map((one) => one[axis])), Math.max(...all.map((one) => one[axis]))];
  const [[left, right], [low, high]] = [range(0), range(1)];
  const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left), (HEIGHT - 2 * MARGIN) / (high - low));
  const [marginX, marginY] = [(WIDTH - scale * (right - left)) / 2, (HEIGHT - scale * (high - low)) / 2];
  return (point) => {
    const [x, y] = closer(point);
    return [marginX + scale * (x - left), marginY + scale * (y - low)];
  };
}
