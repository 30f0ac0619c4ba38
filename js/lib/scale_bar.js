// The histogram above the colour scale, with a mark at the current value.
import { position } from "./colors.js";
import { make } from "./dom.js";
import { histogram } from "./histogram.js";
import { format } from "./numbers.js";

const BINS = 128;

export class ScaleBar {
  constructor() {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${BINS} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    this.svg = svg;
    this.path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.path.setAttribute("fill", "currentColor");
    svg.append(this.path);
    this.ramp = make("div", { class: "qusr-ramp" });
    this.marker = make("div", { class: "qusr-marker" });
    this.marker.hidden = true;
    this.low = make("span", { title: "Lower end of the colours" });
    this.high = make("span", { title: "Upper end of the colours" });
    this.ends = make("div", { class: "qusr-ends" }, this.low, this.high);
    this.element = make("div", { class: "qusr-histogram" }, svg, this.ramp, this.marker);
    this.range = { low: 0, high: 1 };
    this.setUnit("");
  }

  /** @param {string} unit of the values; empty for none */
  setUnit(unit) {
    this.unit = unit;
    this.svg.setAttribute("aria-label", unit ? `Histogram of the expected error in ${unit}` : "Histogram of the uncertainty");
  }

  /** @param {Uint32Array} counts @param {number} scale @param {number} low @param {number} high @param {string} stops */
  draw(counts, scale, low, high, stops) {
    this.range = { low, high };
    const bins = histogram(counts, scale, low, high, BINS);
    const highest = Math.sqrt(Math.max(...bins)) || 1; // square root: a few high values stay visible
    let shape = "M0 100";
    for (let i = 0; i < BINS; i++) shape += `V${(100 - (Math.sqrt(bins[i]) / highest) * 98).toFixed(1)}H${i + 1}`;
    this.path.setAttribute("d", `${shape}V100Z`);
    const colors = stops.trim().split(/\s+/).map((stop) => `#${stop}`);
    this.ramp.style.background = `linear-gradient(to right, ${colors.join(",")})`;
    this.low.textContent = format(low);
    this.high.textContent = this.unit ? `${format(high)} ${this.unit}` : format(high);
  }

  /** @param {number | null} value */
  mark(value) {
    this.marker.hidden = value === null;
    if (value !== null) this.marker.style.left = `${position(value, this.range.low, this.range.high) * 100}%`;
  }
}
