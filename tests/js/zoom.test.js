import { describe, expect, test } from "vitest";
import { clamp, fit, isFit, MAX_SCALE, pixelAt, resized, zoomAt } from "../../js/lib/zoom.js";

const picture = { width: 400, height: 200 };
const stage = { width: 200, height: 200 };

test("fit shows the whole picture, centred", () => {
  expect(fit(picture, stage)).toEqual({ scale: 0.5, x: 0, y: 50 });
  expect(isFit(fit(picture, stage), picture, stage)).toBe(true);
});

describe("zoom", () => {
  test("keeps the point below the pointer", () => {
    const start = zoomAt(fit(picture, stage), 8, 100, 100, picture, stage);
    const before = pixelAt(start, 130, 70, picture);
    const after = pixelAt(zoomAt(start, 2, 130, 70, picture, stage), 130, 70, picture);
    expect(after).toEqual(before);
  });

  test("stops at the whole picture and at the largest scale", () => {
    expect(zoomAt(fit(picture, stage), 0.01, 9, 9, picture, stage)).toEqual(fit(picture, stage));
    expect(zoomAt(fit(picture, stage), 1e9, 9, 9, picture, stage).scale).toBe(MAX_SCALE);
  });

  test("a small picture can be shown at its own size", () => {
    const small = { width: 20, height: 20 };
    expect(zoomAt(fit(small, stage), 0.001, 9, 9, small, stage)).toEqual({ scale: 1, x: 90, y: 90 });
  });
});

test("panning leaves no gap", () => {
  expect(clamp({ scale: 1, x: 50, y: 30 }, picture, stage)).toEqual({ scale: 1, x: 0, y: 0 });
  expect(clamp({ scale: 1, x: -900, y: 0 }, picture, stage)).toEqual({ scale: 1, x: -200, y: 0 });
});

test("pixels are found in the picture only", () => {
  const view = fit(picture, stage);
  expect(pixelAt(view, 0, 50, picture)).toEqual({ x: 0, y: 0 });
  expect(pixelAt(view, 199.9, 149.9, picture)).toEqual({ x: 399, y: 199 });
  expect(pixelAt(view, 100, 49, picture)).toBeNull();
  expect(pixelAt(view, 200, 100, picture)).toBeNull();
});

test("a stage that changes its size keeps the whole view whole and a zoomed one centred", () => {
  const wide = { width: 400, height: 200 };
  expect(resized(fit(picture, stage), stage, wide, picture)).toEqual(fit(picture, wide));
  const zoomed = { scale: 4, x: -700, y: -300 };
  const moved = resized(zoomed, stage, wide, picture);
  expect(pixelAt(moved, 200, 100, picture)).toEqual(pixelAt(zoomed, 100, 100, picture));
});
