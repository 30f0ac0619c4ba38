// The uncertainty viewer: map over photo, true values under the pointer. The node's own settings (colormap, opacity, range)
// act at once, without running the workflow again.
import { makeLookup, makeRamp, paint } from "./colors.js";
import { button, choice, download, make } from "./dom.js";
import { loadPicture, loadPlane } from "./files.js";
import { countBits, cumulativeShare } from "./histogram.js";
import { format } from "./numbers.js";
import { Pager } from "./pager.js";
import { ScaleBar } from "./scale_bar.js";
import { rememberPlace, rememberedPlace } from "./session.js";
import { Stage } from "./stage.js";
import { choiceChanged, onKey } from "./widget.js";

const PLANES = { mean: "mean of channels", red: "red channel", green: "green channel", blue: "blue channel" };
const EMPTY = "Run the workflow to see the map here.";

/** One image of the batch: its place in the results. @typedef {{group: any, index: number}} Item */

export class UncertaintyViewer {
  /** @param {any} node */
  constructor(node) {
    this.node = node;
    /** @type {Item[]} */
    this.items = [];
    this.plane = "mean";
    /** @type {{map: import("./half.js").Plane, counts: Uint32Array, shares: Float64Array,
     * sigma: import("./half.js").Plane, injected: import("./half.js").Plane} | null} */
    this.loaded = null;
    /** @type {{x: number, y: number} | null} */
    this.probe = null;
    this.turn = 0; // which loading is the newest
    this.frame = 0;
    this.painted = "";

    this.photo = make("img", { alt: "", draggable: "false" });
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.stage = new Stage("Uncertainty map. Arrow keys move the probe, plus and minus zoom, 0 shows the whole image.", {
      moved: () => this.moved(),
      hover: (pixel) => pixel && this.setProbe(pixel),
    });
    this.stage.addPane(this.photo, this.canvas);
    this.cross = make("div", { class: "qusr-probe" });
    this.cross.hidden = true;
    this.stage.panes[0].element.append(this.cross);
    this.stage.say(EMPTY);
    this.planeChoice = choice("Which values: the mean of |U| over the channels, or one channel of U", PLANES, (value) => {
      this.choose(value);
    });
    this.pager = new Pager(() => this.load());
    this.bar = new ScaleBar();
    this.readout = make("div", { class: "qusr-readout", role: "status", "aria-live": "polite" });
    const bar = make(
      "div",
      { class: "qusr-bar", role: "toolbar", "aria-label": "View" },
      this.planeChoice,
      button("Fit", "Show the whole image (key: 0)", () => this.stage.fit()),
      button("1:1", "One image pixel on one screen pixel (key: f)", () => this.stage.actualSize()),
      make("span", { class: "qusr-space" }),
      this.pager.element,
      button("PNG", "Save what is visible as a PNG with its colour scale", () => this.export()),
    );
    this.element = make("div", { class: "qusr-frame" }, bar, this.stage.element, this.bar.element, this.bar.ends, this.readout);
    onKey(this.stage.element, (event) => this.stage.key(event) || this.pager.key(event) || this.moveProbe(event));
    this.showValues();
  }

  // --- what the node says ----------------------------------------------------------------------------------

  settle() {
    const saved = this.node.properties?.qusr_plane;
    if (saved in PLANES) this.plane = saved;
    this.planeChoice.value = this.plane;
  }

  /** @param {any[]} groups one for each time the node ran (lists run it several times) */
  show(groups) {
    this.settle();
    this.items = groups.flatMap((group) => group.planes.mean.files.map((/** @type {any} */ _, /** @type {number} */ index) => ({ group, index })));
    const place = rememberedPlace(this.node);
    this.pager.set(this.items.length, place.index ?? 0);
    this.load(place.view ?? null);
  }

  /** @param {string} name @param {any} fallback */
  setting(name, fallback) {
    return this.node.widgets?.find((/** @type {any} */ widget) => widget.name === name)?.value ?? fallback;
  }

  refresh() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.recolor());
  }

  dispose() {
    this.turn++;
    cancelAnimationFrame(this.frame);
    this.stage.dispose();
  }

  // --- loading ---------------------------------------------------------------------------------------------

  get current() {
    return this.items[this.pager.index];
  }

  /** What the values are measured in; empty for a map without a unit. */
  get unit() {
    return /** @type {string} */ (this.current?.group.unit ?? "");
  }

  /** @param {string} plane */
  choose(plane) {
    this.plane = plane;
    this.node.properties.qusr_plane = plane;
    choiceChanged();
    if (this.current) this.load();
  }

  /** @param {import("./zoom.js").View | null} view */
  async load(view = null) {
    const turn = ++this.turn;
    const { group, index } = this.current;
    for (const option of this.planeChoice.options) option.disabled = !(option.value in group.planes);
    this.planeChoice.options[0].text = this.unit ? "expected error" : PLANES.mean;
    this.bar.setUnit(this.unit);
    if (!(this.plane in group.planes)) this.planeChoice.value = this.plane = "mean";
    const file = group.planes[this.plane].files[index];
    try {
      const photo = group.photos[index];
      const [map, sigma, injected] = await Promise.all([
        loadPlane(file),
        loadPlane(group.sigma[index]),
        loadPlane(group.injected[index]),
        photo ? loadPicture(this.photo, photo) : null,
      ]);
      if (turn !== this.turn) return;
      this.photo.hidden = !photo;
      const counts = countBits(map.bits);
      this.loaded = { map, counts, shares: cumulativeShare(counts), sigma, injected };
      this.painted = "";
      this.canvas.width = map.width;
      this.canvas.height = map.height;
      if (this.probe && (this.probe.x >= map.width || this.probe.y >= map.height)) this.probe = null;
      this.stage.setPicture({ width: map.width, height: map.height }, view);
      this.recolor();
      this.stage.say("");
      this.showValues();
    } catch (error) {
      if (turn !== this.turn) return;
      this.loaded = null;
      this.stage.say(error instanceof Error ? error.message : String(error));
      this.showValues();
    }
  }

  // --- drawing: all pixels only when colours or values change, never when the pointer moves ----------------------

  range() {
    const mode = this.setting("range", "auto");
    if (mode === "fixed") {
      const [low, high] = [Number(this.setting("range_min", 0)), Number(this.setting("range_max", 1))];
      return high > low ? [low, high] : [low, low + 1e-6];
    }
    return this.current.group.planes[this.plane].ranges[mode];
  }

  recolor() {
    if (!this.loaded) return;
    const { map, counts } = this.loaded;
    const [low, high] = this.range();
    const { colormaps } = this.current.group;
    const stops = colormaps[this.setting("colormap", "turbo")] ?? Object.values(colormaps)[0];
    const opacity = Number(this.setting("opacity", 1));
    this.canvas.style.opacity = String(this.photo.hidden ? 1 : opacity);
    const wanted = [low, high, stops].join();
    if (wanted === this.painted) return;
    this.painted = wanted;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const image = context.createImageData(map.width, map.height);
    paint(map.bits, makeLookup(makeRamp(stops), map.scale, low, high), new Uint32Array(image.data.buffer));
    context.putImageData(image, 0, 0);
    this.bar.draw(counts, map.scale, low, high, stops);
    this.bar.mark(this.value());
  }

  moved() {
    this.placeCross();
    if (this.loaded) rememberPlace(this.node, { view: this.stage.view, index: this.pager.index });
  }

  // --- the probe -------------------------------------------------------------------------------------------

  value() {
    return this.loaded && this.probe ? this.loaded.map.at(this.probe.x, this.probe.y) : null;
  }

  /** @param {{x: number, y: number}} pixel */
  setProbe(pixel) {
    if (!this.loaded) return;
    this.probe = pixel;
    this.placeCross();
    this.showValues();
  }

  placeCross() {
    this.cross.hidden = !this.probe;
    if (!this.probe) return;
    const { scale, x, y } = this.stage.view;
    this.cross.style.left = `${(this.probe.x + 0.5) * scale + x}px`;
    this.cross.style.top = `${(this.probe.y + 0.5) * scale + y}px`;
  }

  /** @param {KeyboardEvent} event */
  moveProbe(event) {
    const step = event.shiftKey ? 10 : 1;
    /** @type {Record<string, [number, number]>} */
    const steps = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (!(event.key in steps) || !this.loaded) return false;
    const { width, height } = this.loaded.map;
    const from = this.probe ?? { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    const [dx, dy] = this.probe ? steps[event.key] : [0, 0];
    const next = { x: Math.min(width - 1, Math.max(0, from.x + dx)), y: Math.min(height - 1, Math.max(0, from.y + dy)) };
    this.stage.reveal(next.x, next.y);
    this.setProbe(next);
    return true;
  }

  showValues() {
    const value = this.value();
    this.bar.mark(value);
    const cells = [["x, y", "-", "Position in the image"]];
    const about = this.current && !this.current.group.noise_connected ? "\u2248 " : "";
    const estimate = about ? "; an estimate, connect noise for the exact value" : "";
    const name = this.unit ? `error (${this.unit})` : this.plane === "mean" ? "|U|" : `U ${this.plane}`;
    const meaning = this.unit ? `Expected absolute error here, of 255 ${this.unit}` : "Uncertainty here";
    if (value === null || !this.loaded || !this.probe) {
      cells.push([name, "-", ""], ["\u03c3", "-", ""], ["noise", "-", ""]);
    } else {
      const { map, shares, sigma, injected } = this.loaded;
      const { x, y } = this.probe;
      cells[0][1] = `${x}, ${y}`;
      const share = (shares[map.bits[y * map.width + x]] * 100).toFixed(0);
      cells.push([name, format(value), `${meaning}; ${share} % of the image is at or below it`]);
      const scale = sigma.covering(x, y, map.width, map.height);
      const noise = injected.covering(x, y, map.width, map.height);
      cells.push(["\u03c3", about + format(scale), `Noise scale of the latent cell (eq. 6)${estimate}`]);
      cells.push(["noise", about + format(noise), `Noise injected into the latent cell, root mean square over its channels (eq. 7)${estimate}`]);
    }
    this.readout.replaceChildren(
      ...cells.map(([label, text, title]) => make("span", { title: `${title}` }, make("small", {}, label), text)),
    );
  }

  // --- export ----------------------------------------------------------------------------------------------

  export() {
    if (!this.loaded) return;
    const { view, size, picture } = this.stage;
    const left = Math.max(0, Math.floor(-view.x / view.scale));
    const top = Math.max(0, Math.floor(-view.y / view.scale));
    const width = Math.max(1, Math.min(picture.width - left, Math.ceil(size.width / view.scale)));
    const height = Math.max(1, Math.min(picture.height - top, Math.ceil(size.height / view.scale)));
    const strip = 34;
    const result = make("canvas", { width: Math.max(width, 200), height: height + strip });
    const context = /** @type {CanvasRenderingContext2D} */ (result.getContext("2d"));
    context.fillStyle = "#181818";
    context.fillRect(0, 0, result.width, result.height);
    if (!this.photo.hidden) context.drawImage(this.photo, left, top, width, height, 0, 0, width, height);
    context.globalAlpha = Number(this.canvas.style.opacity);
    context.drawImage(this.canvas, left, top, width, height, 0, 0, width, height);
    context.globalAlpha = 1;
    const [low, high] = this.range();
    const stops = this.painted.split(",")[2].trim().split(/\s+/);
    const gradient = context.createLinearGradient(0, 0, result.width, 0);
    stops.forEach((stop, i) => gradient.addColorStop(i / (stops.length - 1), `#${stop}`));
    context.fillStyle = gradient;
    context.fillRect(0, height, result.width, 12);
    context.fillStyle = "#fff";
    context.font = "13px sans-serif";
    context.textBaseline = "middle";
    context.fillText(format(low), 4, height + 23);
    context.textAlign = "right";
    context.fillText(this.unit ? `${format(high)} ${this.unit}` : format(high), result.width - 4, height + 23);
    download(result, `uncertainty-${this.plane}-${this.pager.index + 1}.png`);
  }
}
