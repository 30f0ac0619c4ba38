// Our error messages read "input: what was wrong; what to do".

const OUT_OF_MEMORY =
  "Not enough memory. Lower tile in QUSR One-Step Denoise, use VAE Encode (Tiled) and VAE Decode (Tiled), or a smaller photo.";

/**
 * Head line and remedy for a toast.
 * @param {string} title of the node @param {string} type of the exception @param {string} message
 */
export function explain(title, type, message) {
  const text = message.trim();
  if (/OutOfMemory|OOM/.test(type)) return { summary: `${title}: out of memory`, remedy: OUT_OF_MEMORY };
  const cut = text.indexOf("; ");
  if (cut < 0) return { summary: `${title} stopped`, remedy: text };
  const remedy = text.slice(cut + 2);
  return { summary: `${title}: ${text.slice(0, cut)}`, remedy: remedy[0].toUpperCase() + remedy.slice(1) };
}
