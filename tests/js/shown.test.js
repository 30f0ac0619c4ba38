import { describe, expect, test } from "vitest";
import { hiddenWidgets, spelledOut } from "../../js/lib/shown.js";

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

  test("a seed is shown where something is drawn", () => {
    const drawn = ["seed", "control_after_generate", "seeds"];
    const hidden = (/** @type {any} */ values) =>
      hiddenWidgets("QUSRUpscale", { size: "factor", ...values }).filter((name) => drawn.includes(name));
    expect(hidden({ preset: "balanced" })).toEqual([]);
    expect(hidden({ preset: "faithful" })).toEqual(drawn);
    expect(hidden({ preset: "custom", noise_strength: 0.5 })).toEqual([]);
    expect(hidden({ preset: "custom", noise_strength: 0 })).toEqual(drawn);
    expect(hiddenWidgets("QUSRQwenPrompt", { temperature: 0 })).toEqual(["seed"]);
  });

  test("two strengths are for the files that have them, and for what was set", () => {
    const hidden = (/** @type {any} */ values) => hiddenWidgets("QUSRLoader", { pixel: 1, semantic: 1, ...values });
    expect(hidden({ twoStrengths: true })).toEqual([]);
    expect(hidden({ twoStrengths: undefined })).toEqual([]); // not known
    expect(hidden({ twoStrengths: false })).toEqual(["pixel", "semantic"]);
    expect(hidden({ twoStrengths: false, semantic: 0.5 })).toEqual([]);
  });

  test("a tile is shown where there are tiles", () => {
    expect(hiddenWidgets("QUSRDecode", { tiles: "automatic" })).toEqual(["tile"]);
    expect(hiddenWidgets("QUSRDecode", { tiles: "blended" })).toEqual([]);
    expect(hiddenWidgets("QUSROneStepDenoise", { blend: "automatic" })).toEqual(["tile", "overlap"]);
  });

  test("nodes without a rule hide nothing", () => {
    expect(hiddenWidgets("QUSRCompare", {})).toEqual([]);
  });
});

test("numbers of an old workflow count, -1 does not", () => {
  const meant = (/** @type {any} */ values, saved = ["k"]) =>
    spelledOut("QUSRAdaptiveNoise", { k: -1, m: -1, p: -1, delta: -1, ...values }, saved);
  expect(meant({})).toEqual({});
  expect(meant({ p: 0 })).toEqual({ parameters: "custom" });
  expect(meant({ p: 0 }, ["k", "parameters"])).toEqual({});
});

test("tile 0 of an old workflow is a word", () => {
  expect(spelledOut("QUSREncode", { tile: 0, tiles: "exact" }, [])).toEqual({ tiles: "automatic" });
  expect(spelledOut("QUSREncode", { tile: 0, tiles: "blended" }, [])).toEqual({});
  expect(spelledOut("QUSREncode", { tile: 64, tiles: "exact" }, [])).toEqual({});
  expect(spelledOut("QUSROneStepDenoise", { tile: 0, blend: "gaussian" }, [])).toEqual({ blend: "automatic" });
  expect(spelledOut("QUSROneStepDenoise", { tile: 96, blend: "automatic" }, ["tile"])).toEqual({ blend: "gaussian" });
  expect(spelledOut("QUSROneStepDenoise", { tile: 96, blend: "automatic" }, ["tile", "blend"])).toEqual({});
});
