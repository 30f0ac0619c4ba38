// Half-precision numbers: the true values of a map, as the server sends them.

/** @returns {Float64Array} the value of each of the 65,536 bit patterns (IEEE 754 binary16) */
export function makeHalfTable() {
  const table = new Float64Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
}

export const HALF = makeHalfTable();

/** A plane of numbers that stays in half precision; a value is looked up when it is asked for. */
export class Plane {
  /**
   * @param {ArrayBuffer} buffer little-endian float16, row by row
   * @param {number} width
   * @param {number} height
   * @param {number} scale factor of all values
   */
  constructor(buffer, width, height, scale) {
    if (buffer.byteLength !== width * height * 2) {
      throw new Error(`expected ${width * height * 2} bytes for ${width} x ${height} values, but got ${buffer.byteLength}`);
    }
    this.bits = new Uint16Array(buffer);
    this.width = width;
    this.height = height;
    this.scale = scale;
  }

  /** The value at column x and row y. @param {number} x @param {number} y */
  at(x, y) {
    return HALF[this.bits[y * this.width + x]] * this.scale;
  }

  /** The value of the cell that covers a pixel of a picture of another size. @param {number} x @param {number} y @param {number} width @param {number} height */
  covering(x, y, width, height) {
    const column = Math.min(this.width - 1, Math.floor(((x + 0.5) * this.width) / width));
    const row = Math.min(this.height - 1, Math.floor(((y + 0.5) * this.height) / height));
    return this.at(column, row);
  }
}
