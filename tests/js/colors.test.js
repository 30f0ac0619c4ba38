import { expect, test } from "vitest";
import { makeLookup, makeRamp, paint, position } from "../../js/lib/colors.js";

const ONE = 0x3c00;
const HALF_OF_ONE = 0x3800;

test("a ramp starts and ends at its stops and is linear between", () => {
  const ramp = makeRamp("000000 ff8000", 3);
  expect([...ramp].map((pixel) => pixel.toString(16))).toEqual(["ff000000", "ff004080", "ff0080ff"]);
});

test("positions are cut off at both ends", () => {
  expect([position(-1, 0, 2), position(0.5, 0, 2), position(9, 0, 2)]).toEqual([0, 0.25, 1]);
  expect(position(1, 1, 1)).toBe(0);
});

test("every pixel gets the colour of its value", () => {
  const ramp = makeRamp("000000 ffffff", 256);
  const lookup = makeLookup(ramp, 2, 0, 2); // scale 2: bits 1.0 mean 2.0
  const target = new Uint32Array(4);
  paint(new Uint16Array([0, HALF_OF_ONE, ONE, 0xbc00]), lookup, target);
  expect([...target]).toEqual([ramp[0], ramp[128], ramp[255], ramp[0]]);
});

test("a value that is no number gets a colour too", () => {
  expect(makeLookup(makeRamp("000000 ffffff"), 1, 0, 1)[0x7e00]).toBe(0xff000000);
});
