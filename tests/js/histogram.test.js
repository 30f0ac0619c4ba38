import { expect, test } from "vitest";
import { HALF } from "../../js/lib/half.js";
import { countBits, cumulativeShare, histogram } from "../../js/lib/histogram.js";

const [MINUS_ONE, ZERO, HALF_OF_ONE, ONE] = [0xbc00, 0, 0x3800, 0x3c00];
const counts = countBits(new Uint16Array([ZERO, ZERO, HALF_OF_ONE, ONE, MINUS_ONE]));

test("bins hold every value once, those outside at the ends", () => {
  expect([...histogram(counts, 1, 0, 1, 4)]).toEqual([3, 0, 1, 1]);
  expect([...histogram(counts, 10, -10, 10, 2)]).toEqual([1, 4]);
});

test("shares grow from the lowest value to the highest", () => {
  const shares = cumulativeShare(counts);
  expect([MINUS_ONE, ZERO, HALF_OF_ONE, ONE].map((bits) => shares[bits])).toEqual([0.2, 0.6, 0.8, 1]);
});

test("shares agree with counting", () => {
  const bits = Uint16Array.from({ length: 500 }, (_, i) => ((i * 7919) % 0x7c00) | (i % 3 ? 0 : 0x8000));
  const shares = cumulativeShare(countBits(bits));
  for (const probe of [bits[0], bits[3], bits[123], bits[499]]) {
    const expected = bits.filter((other) => HALF[other] <= HALF[probe]).length / bits.length;
    expect(shares[probe]).toBeCloseTo(expected, 12);
  }
});
