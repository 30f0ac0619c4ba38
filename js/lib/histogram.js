// How often each value occurs. Counted once when a plane is loaded; every range is then cheap.
import { HALF } from "./half.js";

/** @param {Uint16Array} bits @returns {Uint32Array} occurrences of each bit pattern */
export function countBits(bits) {
  const counts = new Uint32Array(65536);
  for (let i = 0; i < bits.length; i++) counts[bits[i]]++;
  return counts;
}

/**
 * Occurrences in equal bins between low and high; values outside go into the first and the last bin.
 * @param {Uint32Array} counts @param {number} scale @param {number} low @param {number} high @param {number} bins
 */
export function histogram(counts, scale, low, high, bins) {
  const result = new Float64Array(bins);
  for (let bits = 0; bits < 65536; bits++) {
    if (!counts[bits]) continue;
    const bin = Math.floor(((HALF[bits] * scale - low) / (high - low || 1e-6)) * bins);
    result[Math.min(bins - 1, Math.max(0, bin))] += counts[bits];
  }
  return result;
}

/**
 * For each bit pattern the share of values at or below it, 0 to 1.
 * @param {Uint32Array} counts
 */
export function cumulativeShare(counts) {
  const shares = new Float64Array(65536);
  let below = 0;
  const add = (/** @type {number} */ bits) => (shares[bits] = below += counts[bits]);
  for (let bits = 0xffff; bits >= 0x8000; bits--) add(bits); // negative values, the lowest first
  for (let bits = 0; bits < 0x8000; bits++) add(bits);
  return below ? shares.map((count) => count / below) : shares;
}
