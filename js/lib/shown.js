// Which widgets of a node do something under its present settings; the others are not shown.

/** @typedef {Record<string, any>} Values */
/** @type {Record<string, Record<string, (values: Values) => boolean>>} */
export const SHOWN = {
  QUSRUpscale: {
    detail: (v) => v.preset === "dial",
    strength: (v) => v.preset === "custom",
    noise_strength: (v) => v.preset === "custom",
    factor: (v) => v.size === "factor",
    longest_side: (v) => v.size === "longest side",
    megapixels: (v) => v.size === "megapixels",
  },
  QUSREnlarge: {
    scale: (v) => v.size === "factor",
    longest_side: (v) => v.size === "longest side",
    megapixels: (v) => v.size === "megapixels",
  },
  QUSRAdaptiveNoise: {
    k: (v) => v.parameters === "custom" && !["reference", "sobel"].includes(v.variant),
    m: (v) => v.parameters === "custom" && !["reference", "sobel"].includes(v.variant),
    p: (v) => v.parameters === "custom",
    delta: (v) => v.parameters === "custom" && v.variant !== "sobel",
    tiles: (v) => v.tile > 0,
  },
  QUSREncode: {
    posterior_seed: (v) => v.posterior === "sample",
    tiles: (v) => v.tile > 0,
  },
  QUSRDecode: { tiles: (v) => v.tile > 0 },
  QUSROneStepDenoise: { overlap: (v) => v.tile > 0 },
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
 * QUSR Adaptive Noise of version 0.1 wrote -1 for "as trained" and had no choice of parameters: any other number in a
 * saved workflow was meant.
 * @param {Values} values
 */
export function meantCustom(values) {
  return ["k", "m", "p", "delta"].some((name) => values[name] >= 0);
}
