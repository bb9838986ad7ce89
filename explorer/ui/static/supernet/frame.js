// What stands around the drawing in every scene: the list of scenes, the buttons, the result with its meter, the drawing in words.

import { STATUS, pack } from "../schedule.js";
import { percent } from "../text.js";
import { blockName } from "./drawing.js";
import { showTile, tileMarkup } from "./sheets.js";
import { LANGUAGES, say, withGlossary } from "./texts.js";

const CALLS_ON_EXPLORE = 50;

export function fillFrame(lesson) {
  const { box, texts, data } = lesson;
  const scene = ({ title }, number) => `<button type="button" data-scene="${number}"><b>${number + 1}</b> <span>${title}</span></button>`;
  const scenes = box.querySelector(".scenes");
  scenes.setAttribute("aria-label", say("scenes"));
  scenes.innerHTML = texts.scenes.map(scene).join("");
  scenes.onclick = ({ target }) => target.closest("button") && lesson.go(Number(target.closest("button").dataset.scene));
  box.querySelector(".in-words summary").textContent = say("inWords");
  const pictures = data.scenes.map(({ prompt }, index) => `<option value="${index}">${prompt}</option>`).join("");
  const buttons = ["play", "step", "reset", "layers"].map((name) => `<button type="button" class="${name}">${say(name)}</button>`).join("");
  box.querySelector(".result").innerHTML = `<figure class="final">${tileMarkup()}<figcaption>${say("yours")}</figcaption></figure><figure class="reference">${tileMarkup(say("full"))}<figcaption>${say("full")}</figcaption></figure>
    <dl><div><dt>${withGlossary(`[[arithmetic|${say("left")}]]`)}</dt><dd class="kept"></dd></div><div><dt>${withGlossary(`[[closeness|${say("closeness")}]]`)}</dt><dd class="psnr"></dd></div></dl>
    <div class="meter"><i></i></div><p class="note"></p>`;
  box.querySelector(".actions").innerHTML = `${buttons}<label class="which">${say("picture")} <select>${pictures}</select></label><a class="explore">${say("explore")}</a>`;
  box.querySelector(".which select").value = lesson.picture;
  box.querySelector(".which select").onchange = ({ target }) => lesson.setPicture(Number(target.value));
  const languages = Object.entries(LANGUAGES).map(([code, name]) => `<option value="${code}" ${code === lesson.language ? "selected" : ""}>${name}</option>`);
  box.querySelector(".walk").innerHTML = `<button type="button" class="back">${say("back")}</button><button type="button" class="next">${say("next")}</button>`;
  box.querySelector(".options").innerHTML = `<button type="button" class="present">${say(lesson.isPresenting ? "leave" : "present")}</button><a class="teacher" href="explorer/static/supernet/teacher.html?lang=${lesson.language}" target="_blank">${say("teacher")}</a>
    <label>${say("language")} <select class="language">${languages.join("")}</select></label>`;
  box.querySelector(".language").onchange = ({ target }) => lesson.setLanguage(target.value);
  box.onclick = ({ target }) => onButton(lesson, target);
}

function onButton(lesson, target) {
  const actions = {
    ".back": () => lesson.go(lesson.number - 1),
    ".next": () => lesson.go(lesson.number + 1),
    ".play": () => lesson.togglePlay(),
    ".step": () => lesson.playback.step(),
    ".reset": () => lesson.setKeep(lesson.choice.everything()),
    ".layers": () => lesson.toggleLayers(),
    ".present": () => lesson.setPresenting(!lesson.isPresenting),
  };
  for (const [name, act] of Object.entries(actions)) if (target.closest(name)) act();
}

/** Say what looks mean in this scene: what happens to a block, or how a colour scale runs. */
export function fillLegend({ box, panel }) {
  const look = (name) => `<span class="${name}"><i></i>${say(`legend_${name}`)}</span>`;
  const scale = panel.scale?.map((end) => say(end));
  box.querySelector(".legend").innerHTML = scale ? `${scale[0]} <i class="scale"></i> ${scale[1]}` : ["computed", "reused", "dead", "share"].map(look).join("");
  box.querySelector(".reset").hidden = !panel.clickable;
}

/** Show the last picture, what is left, how close it is, and where it goes on. */
export function fillResult(lesson, tile) {
  const { box, choice } = lesson;
  showTile(box.querySelector(".final .tile"), tile);
  showTile(box.querySelector(".reference .tile"), lesson.fullPicture);
  box.querySelector(".result .note").textContent = lesson.closenessWords();
  box.querySelector(".final .tile").setAttribute("aria-label", `${lesson.scene.prompt}, ${say(choice.isFull ? "full" : "yours")}`);
  box.querySelector(".kept").textContent = percent(choice.kept, 1);
  box.querySelector(".psnr").textContent = lesson.writeCloseness(lesson.psnr);
  box.querySelector(".meter i").style.width = `${100 * choice.kept}%`;
  box.querySelector(".layers").textContent = say(choice.granularity === "stage" ? "layers" : "stages");
  box.querySelector(".which").hidden = Boolean(lesson.panel?.onlyFirstScene);
  box.querySelector(".explore").href = exploreAddress(lesson);
}

/** Make the address of Explore with the same cells on more calls: each call of the lesson stands for as many in a row. */
function exploreAddress({ choice, data, scene }) {
  const each = CALLS_ON_EXPLORE / choice.calls;
  const keep = new Uint8Array(CALLS_ON_EXPLORE * choice.width);
  for (let call = 0; call < CALLS_ON_EXPLORE; call++) keep.set(choice.keep.subarray(Math.floor(call / each) * choice.width, (Math.floor(call / each) + 1) * choice.width), call * choice.width);
  const values = { model: data.model, prompt: scene.prompt, seed: scene.seed, method: "uniform", "uniform.granularity": choice.granularity, steps: CALLS_ON_EXPLORE, sampler: data.sampler, guidance: data.guidance };
  return `?${new URLSearchParams({ ...values, ratio: Math.min(0.95, 1 - choice.kept).toFixed(2), manual_schedule: pack(keep) })}`;
}

/** Write what the drawing shows in words, a line per call. */
export function inWords({ box, choice, drawing }) {
  const names = (indices) => indices.map((index) => blockName(drawing.layout.blocks[index])).join(", ");
  const line = (call) => {
    const own = Array.from({ length: choice.width }, (_, unit) => call * choice.width + unit);
    const withStatus = (...wanted) => own.filter((index) => wanted.includes(choice.status[index]));
    const [reused, dead] = [withStatus(STATUS.reused), withStatus(STATUS.dead)];
    const rest = [reused.length && say("keptWords", { blocks: names(reused) }), dead.length && say("deadWords", { blocks: names(dead) }), withStatus(STATUS.skipped).length && say("skipped")].filter(Boolean);
    return say("rowWords", { call: say("call", { call }), computed: withStatus(STATUS.computed).length, all: choice.width, rest: rest.join("; ") || say("nothingElse") });
  };
  box.querySelector(".in-words p").innerText = Array.from({ length: choice.calls }, (_, call) => line(call)).join("\n");
}
