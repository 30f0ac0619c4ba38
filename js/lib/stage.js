// A stage shows a picture that can be zoomed and panned; several panes may show layers in step.
import { app } from "../../../scripts/app.js";
import { make } from "./dom.js";
import { clamp, fit, isFit, pixelAt, resized, zoomAt } from "./zoom.js";

/** @typedef {import("./zoom.js").View} View */
/** @typedef {import("./zoom.js").Size} Size */
/** @typedef {{element: HTMLElement, layer: HTMLElement}} Pane */

export class Stage {
  /**
   * @param {string} label for screen readers
   * @param {{moved: (view: View) => void, hover?: (pixel: {x: number, y: number} | null) => void,
   *   grab?: (x: number, width: number) => ((x: number) => void) | null}} listeners
   *   `grab` may take over a drag: it gets the pointer's place in the stage and returns what follows it.
   */
  constructor(label, listeners) {
    this.listeners = listeners;
    this.element = make("div", { class: "qusr-stage", tabindex: 0, role: "application", "aria-label": label });
    this.hint = make("div", { class: "qusr-hint", role: "status" });
    this.element.append(this.hint);
    /** @type {Pane[]} */
    this.panes = [];
    /** @type {Size} */
    this.picture = { width: 1, height: 1 };
    /** @type {View} */
    this.view = { scale: 1, x: 0, y: 0 };
    /** @type {Size} */
    this.size = { width: 0, height: 0 };
    /** @type {View | null} */
    this.waiting = null;
    this.observer = new ResizeObserver(() => this.measure());
    // Nodes 2.0 hands the wheel to the graph unless this attribute is there.
    this.element.addEventListener("focusin", () => this.element.setAttribute("data-capture-wheel", "true"));
    this.element.addEventListener("focusout", () => this.element.removeAttribute("data-capture-wheel"));
    this.element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.element.addEventListener("pointerdown", (event) => this.press(event));
    this.element.addEventListener("pointermove", (event) => this.hoverAt(event));
    this.element.addEventListener("dblclick", () => this.toggleFit());
    this.element.addEventListener("contextmenu", (event) => event.stopPropagation());
  }

  /** @param {HTMLElement[]} children @returns {Pane} */
  addPane(...children) {
    const layer = make("div", { class: "qusr-layer" }, ...children);
    const pane = { element: make("div", { class: "qusr-pane" }, layer), layer };
    this.element.insertBefore(pane.element, this.hint);
    if (!this.panes.length) this.observer.observe(pane.element);
    this.panes.push(pane);
    return pane;
  }

  dispose() {
    this.observer.disconnect();
  }

  /** Show a text instead of the picture; an empty one shows the picture. @param {string} text */
  say(text) {
    this.hint.textContent = text;
    this.hint.hidden = !text;
  }

  /** @param {Size} picture @param {View | null} view null keeps the place if the size is the same, else shows the whole */
  setPicture(picture, view = null) {
    const same = picture.width === this.picture.width && picture.height === this.picture.height;
    this.picture = picture;
    for (const { layer } of this.panes) {
      layer.style.width = `${picture.width}px`;
      layer.style.height = `${picture.height}px`;
    }
    if (!this.size.width) this.waiting = view;
    else if (view) this.setView(clamp(view, picture, this.size));
    else this.setView(same ? this.view : fit(picture, this.size));
  }

  measure() {
    const { clientWidth: width, clientHeight: height } = this.panes[0].element;
    if (!width || !height) return;
    const before = this.size;
    this.size = { width, height };
    if (this.waiting) this.setView(clamp(this.waiting, this.picture, this.size));
    else if (!before.width) this.setView(fit(this.picture, this.size));
    else this.setView(resized(this.view, before, this.size, this.picture));
    this.waiting = null;
  }

  /** @param {View} view */
  setView(view) {
    this.view = view;
    for (const { layer } of this.panes) {
      layer.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
      layer.classList.toggle("qusr-pixels", view.scale >= 3);
    }
    this.listeners.moved(view);
  }

  /** Stage pixels for each CSS pixel on the screen: ComfyUI scales the whole node with the canvas. */
  get magnification() {
    const width = this.element.getBoundingClientRect().width;
    return width ? this.element.clientWidth / width : 1;
  }

  /** Place of a pointer in the pane below it. @param {MouseEvent} event */
  place(event) {
    for (const { element } of this.panes) {
      const box = element.getBoundingClientRect();
      const inside = event.clientX >= box.left && event.clientX <= box.right && box.width > 0;
      if (!inside) continue;
      const ratio = element.clientWidth / box.width;
      return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
    }
    return { x: -1, y: -1 };
  }

  fit() {
    this.setView(fit(this.picture, this.size));
  }

  /** One picture pixel on one pixel of the screen. */
  actualSize() {
    const wanted = this.magnification / (window.devicePixelRatio || 1);
    this.zoom(wanted / this.view.scale);
  }

  toggleFit() {
    if (isFit(this.view, this.picture, this.size)) this.actualSize();
    else this.fit();
  }

  /** @param {number} factor @param {number} x @param {number} y */
  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    this.setView(zoomAt(this.view, factor, x, y, this.picture, this.size));
  }

  /** Move so that a pixel of the picture is visible. @param {number} x @param {number} y */
  reveal(x, y) {
    const { scale } = this.view;
    const [left, top] = [x * scale + this.view.x, y * scale + this.view.y];
    if (left >= 0 && top >= 0 && left <= this.size.width && top <= this.size.height) return;
    const centred = { scale, x: this.size.width / 2 - x * scale, y: this.size.height / 2 - y * scale };
    this.setView(clamp(centred, this.picture, this.size));
  }

  /** Zoom when the stage has the focus; otherwise the wheel belongs to the graph, as over any other node. @param {WheelEvent} event */
  wheel(event) {
    if (!this.element.contains(document.activeElement)) {
      if (!this.element.closest("[data-node-id]")) app.canvas.processMouseWheel(event);
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    const { x, y } = this.place(event);
    this.zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 250), x, y);
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (event.button !== 0) return;
    event.stopPropagation();
    this.element.focus({ preventScroll: true });
    const start = this.place(event);
    const whole = isFit(this.view, this.picture, this.size);
    const follow = whole && this.listeners.grab ? this.listeners.grab(start.x, this.size.width) : null;
    const from = this.view;
    const { magnification } = this;
    this.drag(event, (dx) => {
      if (follow) follow(start.x + dx.x * magnification);
      else this.setView(clamp({ ...from, x: from.x + dx.x * magnification, y: from.y + dx.y * magnification }, this.picture, this.size));
    });
  }

  /** Follow a pointer until it is released. @param {PointerEvent} event @param {(distance: {x: number, y: number}) => void} move distance in CSS pixels of the screen */
  drag(event, move) {
    const target = /** @type {HTMLElement} */ (event.currentTarget);
    target.setPointerCapture(event.pointerId);
    /** @param {PointerEvent} next */
    const moved = (next) => move({ x: next.clientX - event.clientX, y: next.clientY - event.clientY });
    const ended = () => {
      target.removeEventListener("pointermove", moved);
      target.removeEventListener("pointerup", ended);
      target.removeEventListener("pointercancel", ended);
    };
    target.addEventListener("pointermove", moved);
    target.addEventListener("pointerup", ended);
    target.addEventListener("pointercancel", ended);
  }

  /** @param {PointerEvent} event */
  hoverAt(event) {
    const { x, y } = this.place(event);
    this.listeners.hover?.(pixelAt(this.view, x, y, this.picture));
  }

  /** Keys that every stage knows. Returns whether it was one. @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (event.key === "f") this.toggleFit();
    else return false;
    return true;
  }
}
