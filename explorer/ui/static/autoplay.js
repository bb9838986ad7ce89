// The slider moving by itself: a sweep that a visitor starts, and the example of a first visit.

const INTERVAL_MS = 350; // between two ratios
let timer;

/** Sweep over `ratios` to the end, or stop doing so; the `example` begins at the lowest and returns to where it was. */
export function play(button, ratios, example = false) {
  const range = document.querySelector("#ratio input[type=range]");
  const label = (text) => {
    button.setAttribute("aria-pressed", text === "Pause");
    button.textContent = text;
  };
  if (timer) {
    timer = clearInterval(timer);
    return label("Play");
  }
  const start = Number(range.value);
  const larger = ratios.filter((ratio) => ratio > start + 1e-6);
  const path = example ? [...ratios, start] : larger.length ? larger : [...ratios];
  label("Pause");
  timer = setInterval(() => {
    range.value = path.shift();
    range.dispatchEvent(new Event("input", { bubbles: true }));
    if (!path.length) play(button, ratios);
  }, INTERVAL_MS);
}

/** Play on a first visit, as soon as `ready`, unless the visitor prefers reduced motion; any touch or key stops it. */
export function playExample(button, ratios, ready) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const stop = ({ target }) => timer && !button.contains(target) && play(button, ratios);
  const waiting = setInterval(() => {
    if (!ready()) return;
    clearInterval(waiting);
    for (const event of ["pointerdown", "keydown"]) document.addEventListener(event, stop, { once: true, capture: true });
    play(button, ratios, true);
  }, 300);
}
