// The lesson of the SuperNet tab: which scene is shown, what was chosen, and what follows from it on the page.

import { pack, unpack } from "../schedule.js";
import { percent } from "../text.js";
import { writeKey } from "../urlState.js";
import { Choice } from "./choice.js";
import { Drawing } from "./drawing.js";
import { Playback } from "./playback.js";
import { askQuestion } from "./question.js";
import { SCENES } from "./scenes.js";
import { LESSON, tileOf, tileOfPicture } from "./sheets.js";
import { fillFrame, fillLegend, fillResult, inWords } from "./frame.js";
import { loadTexts, preferred, say, withGlossary } from "./texts.js";

const KEYS = { scene: "scene", subnet: "subnet", language: "lang", present: "present" }; // in the address
const DRAW_AFTER_MS = 500; // of rest, where the model has to draw
const [IDENTICAL, HARDLY, CLEARLY] = [99, 35, 25]; // dB, from which on two pictures are the same, look it, and differ a little
const WITH_LAYERS = ["supernet", "subnet", "game"]; // the other scenes are about stages

export async function mountLesson(part) {
  const lesson = new Lesson(part);
  try {
    await lesson.open(new URLSearchParams(location.search));
  } catch (error) {
    part.element.querySelector(".lesson-status").textContent = part.props.failed;
    throw error;
  }
}

export class Lesson {
  constructor({ element, props, watch, trigger }) {
    Object.assign(this, { element, props, trigger, box: element.querySelector(".lesson"), lastChange: "", drawn: null, psnr: null });
    watch("value", () => this.receive(props.value));
  }

  async open(query) {
    this.data = await (await fetch(new URL("lesson.json", LESSON))).json();
    this.choice = new Choice(this.data);
    const asked = query.get(KEYS.subnet);
    if (asked) this.choose(asked);
    this.picture = 0;
    await this.speak(preferred(query.get(KEYS.language)));
    this.setPresenting(query.has(KEYS.present));
    this.show(Math.max(0, this.texts.scenes.findIndex((scene) => scene.id === query.get(KEYS.scene))));
    window.explorerLesson = { choice: () => [pack(this.choice.keep), this.scene.prompt, this.choice.granularity] };
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.element.querySelector(".lesson-status").textContent = "";
    this.box.hidden = false;
  }

  /** Take over decisions from an address; what is none is dropped. */
  choose(text) {
    const granularity = /^[\w-]+$/.test(text) && Choice.granularityOf(text, this.data);
    if (!granularity) return;
    this.choice = new Choice(this.data, granularity);
    this.choice.compute(unpack(text, this.choice.keep.length));
  }

  /** Take over a language: everything that is written is written again. */
  async speak(language) {
    this.texts = await loadTexts(language);
    this.language = this.box.lang = language;
    this.draw();
    fillFrame(this);
    if (this.number !== undefined) this.show(this.number);
  }

  /** Draw the blocks anew, for other blocks or in another language. */
  draw() {
    this.playback?.stop();
    this.drawing = new Drawing(this.box.querySelector(".drawing"), this.choice, {
      onToggle: (call, unit) => this.toggle(call, unit),
      onPoint: (call, unit, words) => {
        this.box.querySelector(".pointed").textContent = words;
        this.panel?.point?.(call, unit);
      },
    });
    this.playback = new Playback(this.drawing, () => this.showPlaying());
  }

  /** Show stages, or the layers of which they consist, with the same choice. */
  setGranularity(granularity) {
    if (granularity === this.choice.granularity) return;
    this.choice = this.choice.at(granularity);
    this.draw();
  }

  get scene() {
    return this.data.scenes[this.panel?.onlyFirstScene ? 0 : this.picture];
  }

  /** Go to another scene, which begins with everything computed. */
  go(number) {
    this.choice.compute(this.choice.everything());
    this.show(number);
    this.box.querySelector(".sentence").focus({ preventScroll: true }); // who is read to hears it
    this.box.scrollIntoView({ block: "start" });
  }

  /** Show a scene of the lesson by its number. */
  show(number) {
    const scene = this.texts.scenes[number];
    this.panel?.leave?.();
    this.playback.stop();
    if (!WITH_LAYERS.includes(scene.id)) this.setGranularity("stage");
    this.number = number;
    this.announce("");
    this.drawing.pointed = null;
    this.box.dataset.scene = scene.id;
    this.box.querySelector(".sentence").innerHTML = withGlossary(scene.sentence);
    this.box.querySelector(".todo").innerHTML = withGlossary(scene.task);
    const panelBox = this.box.querySelector(".panel");
    Object.assign(panelBox, { innerHTML: "", onchange: null, onclick: null });
    this.panel = SCENES[scene.id](this, panelBox);
    this.drawing.setState(this.panel);
    fillLegend(this);
    this.drawing.tint(this.panel.tint ?? null);
    this.box.querySelector(".layers").hidden = !WITH_LAYERS.includes(scene.id);
    askQuestion(this, scene);
    for (const button of this.box.querySelectorAll(".scenes button")) button.setAttribute("aria-current", Number(button.dataset.scene) === number ? "step" : "false");
    for (const [name, at] of [["back", number - 1], ["next", number + 1]]) this.box.querySelector(`.walk .${name}`).disabled = !this.texts.scenes[at];
    writeKey(KEYS.scene, number ? scene.id : "");
    this.update();
  }

  /** Switch a block or, for `unit` null, a whole call; what stops with it stops one after another. */
  toggle(call, unit) {
    if (call === 0) return this.announce(say("fixed"));
    if (unit === null || this.panel.onlyCalls) {
      this.choice.toggleCall(call);
      return this.update();
    }
    const stopped = this.choice.toggle(call, unit);
    const index = call * this.choice.width + unit;
    this.update([index, ...stopped]);
    const facts = { ...this.drawing.placeOf(index), status: this.drawing.statusWords(index), kept: percent(this.choice.kept, 1) };
    const others = this.choice.numWith;
    const more = others ? ` ${say(this.choice.keep[index] ? "runsWith" : "cascade", { count: others })}` : "";
    this.lastChange = say("change", facts) + more;
    return this.announce(this.lastChange);
  }

  setKeep(keep) {
    this.announce("");
    this.choice.compute(keep);
    this.update();
  }

  /** Write everything that follows from the choice. */
  update(stopped = []) {
    const { choice } = this;
    this.drawn = null;
    this.drawing.update(stopped);
    this.box.querySelector(".pointed").textContent = this.drawing.pointed?.getAttribute("aria-label") ?? "";
    writeKey(KEYS.subnet, choice.isFull ? "" : pack(choice.keep));
    this.psnr = this.panel.psnr?.() ?? (choice.number < 0 ? null : this.scene.psnr[choice.number]);
    this.panel.update?.();
    this.showPictures();
    inWords(this);
    clearTimeout(this.waiting);
    if (choice.number < 0) this.waiting = setTimeout(() => this.askToDraw(), DRAW_AFTER_MS);
  }

  /** Let the model draw what is not prepared. */
  askToDraw() {
    this.announce(`${this.lastChange} ${say("live")}`);
    this.trigger("draw");
  }

  /** Show a picture per call: what the network thinks it is, or what it gets. */
  showPictures(what = this.box.querySelector("[name=lesson-shown]:checked")?.value ?? "predicted") {
    const { data } = this;
    const all = Array.from({ length: data.steps }, (_, call) => this.pictureOf(what, call));
    const last = this.panel?.lastPicture?.();
    if (last) all[data.steps - 1] = last;
    this.drawing.showPictures(all);
    fillResult(this, last ?? this.pictureOf("predicted", data.steps - 1));
  }

  pictureOf(what, call) {
    const { choice, data } = this;
    if (what === "noisy") return this.tile("noisy", call, data.steps + 1);
    if (call === data.steps - 1 && this.drawn) return tileOfPicture(this.drawn.picture);
    const index = choice.tile(call);
    return index < 0 ? null : this.tile("subnets", index, this.numSubnetTiles);
  }

  get numSubnetTiles() {
    return (this.choice.levels.length ** this.data.steps - 1) / (this.choice.levels.length - 1);
  }

  /** Find the tile of the full run's picture. */
  get fullPicture() {
    return this.tile("subnets", this.numSubnetTiles - 1, this.numSubnetTiles);
  }

  tile(part, index, count) {
    return tileOf(this.scene, part, index, count);
  }

  /** Take what the model has drawn, unless something else has been chosen since. */
  receive(value) {
    if (!value || value.schedule !== pack(this.choice.keep) || value.prompt !== this.scene.prompt) return;
    this.announce(value.error ? say("liveFailed", { reason: value.error }) : this.lastChange);
    if (value.error) return;
    this.drawn = value;
    this.psnr = value.psnr;
    this.panel.update?.();
    this.showPictures();
  }

  writeCloseness(psnr) {
    return psnr === null ? "…" : psnr >= IDENTICAL ? say("same") : say("db", { value: psnr.toFixed(1) });
  }

  /** Say how much of a difference can be seen. */
  closenessWords() {
    if (this.psnr === null || this.psnr >= IDENTICAL) return "";
    return say(this.psnr >= HARDLY ? "hardly" : this.psnr >= CLEARLY ? "slightly" : "clearly");
  }

  announce(text) {
    this.box.querySelector(".live").textContent = text;
  }

  setPresenting(on) {
    document.body.classList.toggle("presenting", on);
    this.box.querySelector(".present").textContent = say(on ? "leave" : "present");
    writeKey(KEYS.present, on ? "1" : "");
  }

  get isPresenting() {
    return document.body.classList.contains("presenting");
  }

  async setLanguage(language) {
    writeKey(KEYS.language, language);
    await this.speak(language);
  }

  toggleLayers() {
    this.setGranularity(this.choice.granularity === "stage" ? "layer" : "stage");
    this.show(this.number);
  }

  setPicture(picture) {
    this.picture = picture;
    this.update();
  }

  togglePlay() {
    if (this.playback.isPlaying) this.playback.pause();
    else this.playback.play();
    this.showPlaying();
  }

  showPlaying() {
    const button = this.box.querySelector(".play");
    if (button) button.textContent = say(this.playback.isPlaying ? "stop" : "play");
  }

  /** While presenting, space and arrows walk through the scenes. */
  onKey(event) {
    if (!this.isPresenting || !this.box.offsetParent || event.target.closest("input, button, textarea, [role=button], [role=radio]")) return;
    const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
    if (event.key === "Escape") this.setPresenting(false);
    else if (step && this.texts.scenes[this.number + step]) this.go(this.number + step);
    else return;
    event.preventDefault();
  }
}
