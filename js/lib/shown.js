// Which widgets of a node do something under its present settings; the others are not shown.

/** @typedef {Record<string, any>} Values */
/** @typedef {(values: Values) => boolean} Rule */

/** @type {Rule} The settings of QUSR Upscale that inject noise. */
const injects = (v) => v.preset !== "faithful" && !(v.preset === "custom" && v.noise_strength === 0);
/** @type {Rule} */
const takesTiles = (v) => v.tiles !== "automatic";
/** @type {Rule} PiSA-SR alone has two LoRA. A strength that was set stays in sight: the node refuses it with other files. */
const hasTwo = (v) => v.twoStrengths !== false || v.pixel !== 1 || v.semantic !== 1;

/** @type {Record<string, Record<string, Rule>>} */
export const SHOWN = {
  QUSRUpscale: {
    detail: (v) => v.preset === "dial",
    strength: (v) => v.preset === "custom",
    noise_strength: (v) => v.preset === "custom",
    seed: injects,
    control_after_generate: injects,
    seeds: injects,
    factor: (v) => v.size === "factor",
    longest_side: (v) => v.size === "longest side",
    megapixels: (v) => v.size === "megapixels",
  },
  QUSRLoader: { pixel: hasTwo, semantic: hasTwo },
  QUSREnlarge: {
    scale: (v) => v.size === "factor",
    longest_side: (v) => v.size === "longest side",
    megapixels: (v) => v.size === "megapixels",
  },
  QUSRQwenPrompt: { seed: (v) => v.temperature > 0 },
  QUSRUncertainty: { max_error: (v) => ["auto", "model"].includes(v.estimator) },
  QUSRAdaptiveNoise: {
    k: (v) => v.parameters === "custom" && !["reference", "sobel"].includes(v.variant),
    m: (v) => v.parameters === "custom" && !["reference", "sobel"].includes(v.variant),
    p: (v) => v.parameters === "custom",
    delta: (v) => v.parameters === "custom" && v.variant !== "sobel",
    tile: takesTiles,
  },
  QUSREncode: { posterior_seed: (v) => v.posterior === "sample", tile: takesTiles },
  QUSRDecode: { tile: takesTiles },
  QUSROneStepDenoise: { tile: (v) => v.blend !== "automatic", overlap: (v) => v.blend !== "automatic" },
  QUSRUncertaintyView: {
    range_min: (v) => v.range === "fixed",
    range_max: (v) => v.range === "fixed",
  },
};

/**
 * Names of a node's widgets that are not to be shown.
 * @param {string} type @param {Values} values
 */
export function hiddenWidgets(type, values) {
  return Object.entries(SHOWN[type] ?? {})
    .filter(([, shown]) => !shown(values))
    .map(([name]) => name);
}

/**
 * Values that say today what a saved workflow of version 0.1 says with a number: -1 for "as trained" in k, m, p and delta
 * (any other was meant), 0 for "whole" in tile.
 * @param {string} type @param {Values} values @param {string[]} saved names of the widgets that the workflow knows
 * @returns {Values}
 */
export function spelledOut(type, values, saved) {
  /** @type {Values} */
  const found = {};
  if (type === "QUSRAdaptiveNoise" && !saved.includes("parameters")) {
    if (["k", "m", "p", "delta"].some((name) => values[name] >= 0)) found.parameters = "custom";
  }
  if (type === "QUSROneStepDenoise" && !saved.includes("blend") && values.tile > 0) found.blend = "gaussian"; // as then
  if (values.tile !== 0) return found;
  if (values.tiles === "exact") found.tiles = "automatic";
  if (type === "QUSROneStepDenoise") found.blend = "automatic";
  return found;
}
