/** A component that works before Gradio has mounted it; it has what Gradio gives to one: element, properties and events. */
export class EarlyPart {
  #watched = [];
  #triggered = [];

  /** `arrive(name, part)`: Gradio has mounted it, as `part`. */
  constructor(name, element, props, arrive) {
    Object.assign(this, { element, props, arrive: (part) => arrive(name, part) });
    this.watch = (what, then) => this.#watched.push([what, then]);
    this.trigger = (event) => this.#triggered.push(event);
  }

  /** Move what was made into Gradio's component, and be that from now on. */
  moveInto(part) {
    part.element.replaceChildren(...this.element.childNodes);
    Object.assign(this, part);
    for (const [what, then] of this.#watched) this.watch(what, then);
    for (const event of new Set(this.#triggered)) this.trigger(event);
  }
}
