// Zoom and pan as arithmetic. A view maps picture pixels to stage pixels: stage = picture * scale + offset.

/** @typedef {{scale: number, x: number, y: number}} View */
/** @typedef {{width: number, height: number}} Size */

export const MAX_SCALE = 64;

/** The whole picture, centred. @param {Size} picture @param {Size} stage @returns {View} */
export function fit(picture, stage) {
  const scale = Math.min(stage.width / picture.width, stage.height / picture.height) || 1;
  return { scale, x: (stage.width - picture.width * scale) / 2, y: (stage.height - picture.height * scale) / 2 };
}

/** Keep the picture in sight: centred where it is smaller than the stage, without a gap where it is larger. @param {View} view @param {Size} picture @param {Size} stage @returns {View} */
export function clamp(view, picture, stage) {
  /** @param {number} offset @param {number} length @param {number} room */
  const along = (offset, length, room) =>
    length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, offset));
  return {
    scale: view.scale,
    x: along(view.x, picture.width * view.scale, stage.width),
    y: along(view.y, picture.height * view.scale, stage.height),
  };
}

/** Zoom around a point of the stage, which stays where it is. @param {View} view @param {number} factor @param {number} x @param {number} y @param {Size} picture @param {Size} stage @returns {View} */
export function zoomAt(view, factor, x, y, picture, stage) {
  const smallest = Math.min(1, fit(picture, stage).scale);
  const scale = Math.min(MAX_SCALE, Math.max(smallest, view.scale * factor));
  const ratio = scale / view.scale;
  return clamp({ scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio }, picture, stage);
}

/** The picture's pixel below a point of the stage, or null outside. @param {View} view @param {number} x @param {number} y @param {Size} picture */
export function pixelAt(view, x, y, picture) {
  const column = Math.floor((x - view.x) / view.scale);
  const row = Math.floor((y - view.y) / view.scale);
  return column >= 0 && row >= 0 && column < picture.width && row < picture.height ? { x: column, y: row } : null;
}

/** Whether the view shows the whole picture as `fit` does. @param {View} view @param {Size} picture @param {Size} stage */
export function isFit(view, picture, stage) {
  const whole = fit(picture, stage);
  return Math.abs(view.scale - whole.scale) < 1e-6 * whole.scale;
}

/** The same place of the picture in a stage of another size. @param {View} view @param {Size} before @param {Size} after @param {Size} picture @returns {View} */
export function resized(view, before, after, picture) {
  if (isFit(view, picture, before)) return fit(picture, after);
  const moved = { scale: view.scale, x: view.x + (after.width - before.width) / 2, y: view.y + (after.height - before.height) / 2 };
  return clamp(moved, picture, after);
}
