// The markup of the viewer. Prompts are those of the gallery, never a visitor's.

export const MODES = { side: "Side by side", wipe: "Wipe", blink: "Blink", difference: "Difference", wall: "All prompts" };
export const ROLES = ["original", "pruned", "rival"];

const canvas = '<canvas width="0" height="0" aria-hidden="true"></canvas>';
const fill = (box, rows) => (box.innerHTML = rows.join(""));

export const modes = (box) =>
  fill(box, Object.entries(MODES).map(([mode, title]) => `<button type="button" role="radio" data-mode="${mode}" aria-checked="${mode === "side"}">${title}</button>`));

export const stage = (box) =>
  fill(box, ROLES.map((role) => `<figure class="card" data-role="${role}"><div class="frame noise"><canvas class="under" width="0" height="0" aria-hidden="true"></canvas>
    <canvas class="own" width="0" height="0" role="img"></canvas><span class="counter"></span>
    <button type="button" class="save" title="Save this picture with its settings" aria-label="Save the ${role} picture">↓</button></div>
    <progress max="1" value="1" aria-label="${role}: calls done"></progress><figcaption><h2></h2><p></p><dl></dl></figcaption></figure>`));

export const others = (box, methods) =>
  fill(box, Object.entries(methods).map(([name, { title }]) => `<button type="button" data-method="${name}">${canvas}<span>${title}</span><small></small></button>`));

export const scenes = (box, list) =>
  fill(box, list.map(({ prompt, seed }, scene) => `<button type="button" data-scene="${scene}" title="${prompt}, seed ${seed}" aria-label="${prompt}, seed ${seed}">${canvas}</button>`));

export const wall = (box, list) =>
  fill(box, list.map(({ prompt, seed }, scene) => `<button type="button" data-scene="${scene}" title="${prompt}, seed ${seed}">${canvas}${canvas}<span>${prompt}</span><small></small></button>`));

/** The picture of a card as a file whose name says what it is. */
export function save(card, { prompt, seed, method, ratio, sampler, steps }) {
  const what = card.dataset.role === "pruned" ? `${method}-${Math.round(100 * ratio)}` : card.dataset.role;
  const link = document.createElement("a");
  link.download = `${prompt}, seed ${seed}, ${sampler} ${steps}, ${what}.png`.replace(/[^\w .,+-]/g, "-");
  link.href = card.querySelector(".own").toDataURL("image/png");
  link.click();
}
