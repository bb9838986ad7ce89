// The slider moving by itself: a sweep that a visitor starts, and the example of a first visit.

const PACE = 350; // milliseconds a stop
let playing;

/** Sweep over `stops` to the end, or stop doing so; the `example` starts below and comes back. */
export function play(button, stops, example = false) {
  const range = document.querySelector("#ratio input[type=range]");
  const show = (title) => {
    button.setAttribute("aria-pressed", title === "Pause");
    button.textContent = title;
  };
  if (playing) {
    playing = clearInterval(playing);
    return show("Play");
  }
  const home = Number(range.value);
  const onward = stops.filter((ratio) => ratio > home + 1e-6);
  const way = example ? [...stops, home] : onward.length ? onward : [...stops];
  show("Pause");
  playing = setInterval(() => {
    range.value = way.shift();
    range.dispatchEvent(new Event("input", { bubbles: true }));
    if (!way.length) play(button, stops);
  }, PACE);
}

/** A first visit: as soon as `ready`, unless somebody wants it calm; any touch or key stops it. */
export function example(button, stops, ready) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const stop = ({ target }) => playing && !button.contains(target) && play(button, stops);
  const waiting = setInterval(() => {
    if (!ready()) return;
    clearInterval(waiting);
    for (const event of ["pointerdown", "keydown"]) document.addEventListener(event, stop, { once: true, capture: true });
    play(button, stops, true);
  }, 300);
}
