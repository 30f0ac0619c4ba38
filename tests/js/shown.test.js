import { describe, expect, test } from "vitest";
import { hiddenWidgets, meantCustom } from "../../js/lib/shown.js";

describe("widgets that do nothing", () => {
  test("each preset of QUSR Upscale shows what it reads", () => {
    const hidden = (/** @type {string} */ preset) => hiddenWidgets("QUSRUpscale", { preset, size: "factor" });
    const sizes = ["longest_side", "megapixels"];
    expect(hidden("dial")).toEqual(["strength", "noise_strength", ...sizes]);
    expect(hidden("custom")).toEqual(["detail", ...sizes]);
    expect(hidden("balanced")).toEqual(["detail", "strength", "noise_strength", ...sizes]);
  });

  test("a rule of the size shows its own number", () => {
    const hidden = (/** @type {string} */ size) => hiddenWidgets("QUSREnlarge", { size });
    expect(hidden("factor")).toEqual(["longest_side", "megapixels"]);
    expect(hidden("longest side")).toEqual(["scale", "megapixels"]);
    expect(hidden("megapixels")).toEqual(["scale", "longest_side"]);
  });

  test("custom noise shows the numbers of its variant", () => {
    const hidden = (/** @type {any} */ values) => hiddenWidgets("QUSRAdaptiveNoise", { tile: 64, ...values });
    expect(hidden({ parameters: "as trained", variant: "paper" })).toEqual(["k", "m", "p", "delta"]);
    expect(hidden({ parameters: "custom", variant: "auto" })).toEqual([]);
    expect(hidden({ parameters: "custom", variant: "reference" })).toEqual(["k", "m"]);
    expect(hidden({ parameters: "custom", variant: "sobel" })).toEqual(["k", "m", "delta"]);
  });

  test("nodes without a rule hide nothing", () => {
    expect(hiddenWidgets("QUSRCompare", {})).toEqual([]);
  });
});

test("numbers of an old workflow count, -1 does not", () => {
  expect(meantCustom({ k: -1, m: -1, p: -1, delta: -1 })).toBe(false);
  expect(meantCustom({ k: -1, m: -1, p: 0, delta: -1 })).toBe(true);
});
