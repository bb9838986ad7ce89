// The slider moving by itself: a sweep that a visitor starts, and the example of a first visit.

const INTERVAL_MS = 350; // between two ratios of a sweep
// The example: up to a ratio in steps of so many milliseconds, which is held for a while and said in words; 6 seconds.
const EXAMPLE = [
  { upTo: 0, step: 0, hold: 900 },
  { upTo: 0.8, step: 70, hold: 1500 },
  { upTo: 0.95, step: 200, hold: 1300 },
];
const HOME = 0.8; // where it ends, also when somebody ends it
let stop; // ends what plays at present

export const isPlaying = () => Boolean(stop);

function move(ratio) {
  const range = document.querySelector("#ratio input[type=range]");
  range.value = ratio;
  range.dispatchEvent(new Event("input", { bubbles: true }));
}

function label(button, text) {
  button.setAttribute("aria-pressed", text === "Pause");
  button.textContent = text;
}

/** Make the moves of `steps`, [ratio, milliseconds until the next, whether to say it], then `onEnd`; `stop` ends it early. */
function run(button, steps, say, onEnd) {
  let timer;
  stop = () => {
    clearTimeout(timer);
    stop = undefined;
    label(button, "Play");
    say(false);
    onEnd();
  };
  const next = () => {
    if (!steps.length) return stop();
    const [ratio, wait, said] = steps.shift();
    say(Boolean(said));
    move(ratio);
    timer = setTimeout(next, wait);
  };
  label(button, "Pause");
  next();
}

/** Sweep over `ratios` to the end, or stop doing so. */
export function play(button, ratios) {
  if (stop) return stop();
  const start = Number(document.querySelector("#ratio input[type=range]").value);
  const larger = ratios.filter((ratio) => ratio > start + 1e-6);
  const path = larger.length ? larger : ratios;
  run(button, path.map((ratio) => [ratio, INTERVAL_MS]), () => {}, () => {});
}

/** Play the example on a first visit, as soon as `ready`, unless the visitor prefers reduced motion. Any touch or key ends
 * it, where it would have ended. `say`: whether to say in words what is seen. */
export function playExample(button, ratios, ready, say) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const waiting = setInterval(() => {
    if (!ready()) return;
    clearInterval(waiting);
    const events = ["pointerdown", "keydown"];
    const end = ({ target }) => stop && !button.contains(target) && stop();
    for (const event of events) document.addEventListener(event, end, { once: true, capture: true });
    run(button, exampleSteps(ratios), say, () => {
      for (const event of events) document.removeEventListener(event, end, { capture: true });
      move(HOME);
    });
  }, 300);
}

function exampleSteps(ratios) {
  let before = -1;
  return EXAMPLE.flatMap(({ upTo, step, hold }) => {
    const between = ratios.filter((ratio) => ratio > before && ratio < upTo - 1e-6);
    before = upTo;
    return [...between.map((ratio) => [ratio, step]), [upTo, hold, true]];
  });
}
