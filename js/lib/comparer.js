// The comparer: slider, side by side, amplified difference, flicker; all of them zoom in step.
import { button, choice, make } from "./dom.js";
import { loadPicture } from "./files.js";
import { Pager } from "./pager.js";
import { rememberPlace, rememberedPlace } from "./session.js";
import { Stage } from "./stage.js";
import { choiceChanged, onKey } from "./widget.js";

const MODES = { slider: "Slider", side: "Side by side", difference: "Difference", flicker: "Flicker" };
const GAINS = { 1: "x 1", 2: "x 2", 4: "x 4", 8: "x 8", 16: "x 16", 32: "x 32" };
const FLICKER_MS = 600;
const EMPTY = "Run the workflow to compare here.";

export class Comparer {
  /** @param {any} node */
  constructor(node) {
    this.node = node;
    /** @type {{before: any, after: any, original_size: [number, number]}[]} */
    this.items = [];
    this.mode = "slider";
    this.gain = "8";
    this.split = 0.5; // place of the slider in the stage
    this.turn = 0;
    this.timer = 0;
    this.ready = false;

    this.before = make("img", { alt: "before", draggable: "false" });
    this.after = make("img", { alt: "after", draggable: "false" });
    this.difference = make("canvas", { "aria-label": "difference" });
    this.stage = new Stage(
      "Comparison. Left and right arrows move the slider, 1 to 4 choose the mode, space flips, plus and minus zoom, 0 shows all.",
      { moved: () => this.remember(), grab: (x, width) => this.grab(x, width) },
    );
    this.left = this.stage.addPane(this.before);
    this.right = this.stage.addPane(this.after);
    this.third = this.stage.addPane(this.difference);
    this.beforeChip = make("span", { class: "qusr-chip", style: "left:6px" });
    this.afterChip = make("span", { class: "qusr-chip", style: "right:6px" });
    this.divider = make("div", {
      class: "qusr-divider", role: "slider", tabindex: 0, "aria-label": "Border between before and after",
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-orientation": "horizontal",
    });
    this.divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      if (event.button !== 0) return;
      const from = this.split;
      const width = this.stage.element.getBoundingClientRect().width;
      this.stage.drag(event, ({ x }) => this.setSplit(from + x / width));
    });
    this.stage.element.insertBefore(this.divider, this.stage.hint);
    this.stage.element.insertBefore(this.beforeChip, this.stage.hint);
    this.stage.element.insertBefore(this.afterChip, this.stage.hint);
    this.stage.say(EMPTY);

    this.pager = new Pager(() => this.load());
    this.modeButtons = Object.entries(MODES).map(([mode, text], i) =>
      button(text, `${text} (key: ${i + 1})`, () => this.choose({ mode })),
    );
    this.gainChoice = choice("How much the difference is amplified", GAINS, (gain) => this.choose({ gain }));
    const bar = make(
      "div",
      { class: "qusr-bar", role: "toolbar", "aria-label": "Comparison" },
      ...this.modeButtons,
      this.gainChoice,
      make("span", { class: "qusr-space" }),
      this.pager.element,
      button("Fit", "Show the whole image (key: 0)", () => this.stage.fit()),
      button("1:1", "One image pixel on one screen pixel (key: f)", () => this.stage.actualSize()),
    );
    this.element = make("div", { class: "qusr-frame" }, bar, this.stage.element);
    onKey(this.stage.element, (event) => this.stage.key(event) || this.pager.key(event) || this.key(event));
    this.arrange();
  }

  settle() {
    const { qusr_mode: mode, qusr_gain: gain } = this.node.properties ?? {};
    if (mode in MODES) this.mode = mode;
    if (gain in GAINS) this.gain = String(gain);
    this.arrange();
  }

  /** @param {any[]} items */
  show(items) {
    this.settle();
    this.items = items;
    const place = rememberedPlace(this.node);
    this.split = place.split ?? 0.5;
    this.pager.set(items.length, place.index ?? 0);
    this.load(place.view ?? null);
  }

  dispose() {
    this.turn++;
    clearInterval(this.timer);
    this.stage.dispose();
  }

  /** @param {import("./zoom.js").View | null} view */
  async load(view = null) {
    const turn = ++this.turn;
    const { before, after, original_size: original } = this.items[this.pager.index];
    try {
      await Promise.all([loadPicture(this.before, before), loadPicture(this.after, after)]);
      if (turn !== this.turn) return;
      this.ready = true;
      const enlarged = original[0] !== after.width || original[1] !== after.height;
      this.beforeChip.textContent = `before ${original[0]} x ${original[1]}${enlarged ? ", resized" : ""}`;
      this.afterChip.textContent = `after ${after.width} x ${after.height}`;
      this.drawDifference();
      this.stage.setPicture({ width: after.width, height: after.height }, view);
      this.stage.say("");
      this.arrange();
    } catch (error) {
      if (turn !== this.turn) return;
      this.ready = false;
      this.stage.say(error instanceof Error ? error.message : String(error));
      this.arrange();
    }
  }

  /** |after - before| once for each pair; the gain is a CSS filter, so changing it costs nothing. */
  drawDifference() {
    this.difference.width = this.difference.height = 1;
    if (this.mode !== "difference" || !this.ready) return;
    this.difference.width = this.after.naturalWidth;
    this.difference.height = this.after.naturalHeight;
    const context = /** @type {CanvasRenderingContext2D} */ (this.difference.getContext("2d"));
    context.drawImage(this.before, 0, 0, this.difference.width, this.difference.height);
    context.globalCompositeOperation = "difference";
    context.drawImage(this.after, 0, 0);
  }

  // --- mode ------------------------------------------------------------------------------------------------

  /** @param {{mode?: string, gain?: string}} change */
  choose({ mode = this.mode, gain = this.gain }) {
    Object.assign(this.node.properties, { qusr_mode: mode, qusr_gain: gain });
    this.mode = mode;
    this.gain = gain;
    choiceChanged();
    this.drawDifference();
    this.arrange();
  }

  /** Show what the mode needs. */
  arrange() {
    const { mode } = this;
    const side = mode === "side";
    Object.keys(MODES).forEach((name, i) => this.modeButtons[i].setAttribute("aria-pressed", String(name === mode)));
    this.gainChoice.hidden = mode !== "difference";
    this.gainChoice.value = this.gain;
    this.left.element.style.right = side ? "50%" : "0";
    this.right.element.style.left = side ? "50%" : "0";
    this.right.element.style.borderLeft = side ? "1px solid #fff" : "none";
    this.third.element.hidden = mode !== "difference";
    this.third.element.style.background = "#000";
    this.difference.style.filter = `brightness(${this.gain})`;
    this.divider.hidden = mode !== "slider";
    this.setSplit(this.split);
    this.flip(true);
    clearInterval(this.timer);
    this.timer = 0;
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (mode === "flicker" && this.ready && !still) this.timer = window.setInterval(() => this.flip(), FLICKER_MS);
  }

  /** Show before or after (flicker), or both (every other mode). @param {boolean} [after] */
  flip(after = this.right.element.style.visibility === "hidden") {
    this.right.element.style.visibility = after ? "visible" : "hidden";
    const flicker = this.mode === "flicker";
    const difference = this.mode === "difference";
    this.beforeChip.hidden = !this.ready || difference || (flicker && after);
    this.afterChip.hidden = !this.ready || difference || (flicker && !after);
  }

  // --- slider ----------------------------------------------------------------------------------------------

  /** @param {number} split 0 to 1 */
  setSplit(split) {
    this.split = Math.min(1, Math.max(0, split));
    const percent = `${this.split * 100}%`;
    this.right.element.style.clipPath = this.mode === "slider" ? `inset(0 0 0 ${percent})` : "none";
    this.divider.style.left = percent;
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.split * 100)));
    this.remember();
  }

  /** In the whole view a drag anywhere moves the slider. @param {number} x @param {number} width */
  grab(x, width) {
    if (this.mode !== "slider") return null;
    this.setSplit(x / width);
    return (/** @type {number} */ next) => this.setSplit(next / width);
  }

  remember() {
    if (!this.ready) return;
    rememberPlace(this.node, { view: this.stage.view, index: this.pager.index, split: this.split });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const mode = Object.keys(MODES)[Number(event.key) - 1];
    if (mode) this.choose({ mode });
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      this.setSplit(this.split + (event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 0.1 : 0.01));
    } else if (event.key === " " && this.mode === "flicker") {
      clearInterval(this.timer);
      this.flip();
    } else return false;
    return true;
  }
}
