import { describe, expect, test } from "vitest";
import { HALF, Plane } from "../../js/lib/half.js";

describe("half precision", () => {
  test("known bit patterns", () => {
    /** @type {[number, number][]} */
    const known = [
      [0x0000, 0], [0x3c00, 1], [0xc000, -2], [0x3555, 0.333251953125], [0x7bff, 65504], [0x0001, 2 ** -24],
      [0x0400, 2 ** -14], [0x7c00, Infinity], [0xfc00, -Infinity],
    ];
    for (const [bits, value] of known) expect(HALF[bits]).toBe(value);
    expect(HALF[0x7e00]).toBeNaN();
  });

  test("grows with the bits", () => {
    for (let bits = 1; bits < 0x7c00; bits++) expect(HALF[bits]).toBeGreaterThan(HALF[bits - 1]);
  });
});

describe("plane", () => {
  const plane = new Plane(new Uint16Array([0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600]).buffer, 3, 2, 0.5);

  test("reads row by row, times the scale", () => {
    expect([plane.at(0, 0), plane.at(2, 0), plane.at(0, 1), plane.at(2, 1)]).toEqual([0.5, 1.5, 2, 3]);
  });

  test("finds the cell that covers a pixel of a larger picture", () => {
    expect(plane.covering(0, 0, 12, 8)).toBe(plane.at(0, 0));
    expect(plane.covering(3, 3, 12, 8)).toBe(plane.at(0, 0));
    expect(plane.covering(4, 4, 12, 8)).toBe(plane.at(1, 1));
    expect(plane.covering(11, 7, 12, 8)).toBe(plane.at(2, 1));
  });

  test("refuses a file of another size", () => {
    expect(() => new Plane(new ArrayBuffer(10), 3, 2, 1)).toThrow("expected 12 bytes for 3 x 2 values, but got 10");
  });
});
