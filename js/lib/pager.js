// Flip through a batch.
import { button, make } from "./dom.js";

export class Pager {
  /** @param {(index: number) => void} turned */
  constructor(turned) {
    this.turned = turned;
    this.index = 0;
    this.count = 0;
    this.back = button("<", "Previous image (key: [)", () => this.turn(-1));
    this.text = make("span", { role: "status" });
    this.forward = button(">", "Next image (key: ])", () => this.turn(1));
    this.element = make("span", {}, this.back, " ", this.text, " ", this.forward);
    this.set(0, 0);
  }

  /** @param {number} count @param {number} index */
  set(count, index) {
    this.count = count;
    this.index = Math.min(Math.max(0, index), Math.max(0, count - 1));
    this.element.hidden = count < 2;
    this.back.disabled = this.index === 0;
    this.forward.disabled = this.index >= count - 1;
    this.text.textContent = `${this.index + 1} / ${count}`;
    this.text.setAttribute("aria-label", `Image ${this.index + 1} of ${count}`);
  }

  /** @param {number} step */
  turn(step) {
    const before = this.index;
    this.set(this.count, before + step);
    if (this.index !== before) this.turned(this.index);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || (event.key !== "[" && event.key !== "]")) return false;
    this.turn(event.key === "[" ? -1 : 1);
    return true;
  }
}
