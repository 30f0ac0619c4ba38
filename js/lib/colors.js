// Values to colours, by one table with an entry for each half-precision bit pattern.
import { HALF } from "./half.js";

/**
 * Colours of a colormap, evenly spaced.
 * @param {string} stops colours as rrggbb, separated by spaces, interpolated linearly
 * @param {number} count
 * @returns {Uint32Array} pixels as ImageData holds them on a little-endian machine (opaque)
 */
export function makeRamp(stops, count = 256) {
  const colors = stops.trim().split(/\s+/).map((c) => [0, 2, 4].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const ramp = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const place = (i / (count - 1)) * (colors.length - 1);
    const left = Math.min(colors.length - 2, Math.floor(place));
    const part = place - left;
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(colors[left][c] * (1 - part) + colors[left + 1][c] * part));
    ramp[i] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }
  return ramp;
}

/**
 * Position of a value on the colour scale, 0 to 1, cut off at both ends.
 * @param {number} value @param {number} low @param {number} high
 */
export function position(value, low, high) {
  return Math.min(1, Math.max(0, (value - low) / (high - low || 1e-6)));
}

/**
 * The colour of every bit pattern.
 * @param {Uint32Array} ramp @param {number} scale of the plane @param {number} low @param {number} high
 */
export function makeLookup(ramp, scale, low, high) {
  const lookup = new Uint32Array(65536);
  const last = ramp.length - 1;
  for (let bits = 0; bits < 65536; bits++) lookup[bits] = ramp[Math.round(position(HALF[bits] * scale, low, high) * last) || 0];
  return lookup;
}

/** Colour all pixels: one look-up each. @param {Uint16Array} bits @param {Uint32Array} lookup @param {Uint32Array} target */
export function paint(bits, lookup, target) {
  for (let i = 0; i < bits.length; i++) target[i] = lookup[bits[i]];
}
