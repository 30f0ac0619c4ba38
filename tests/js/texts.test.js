import { expect, test } from "vitest";
import { explain } from "../../js/lib/errors.js";
import { format } from "../../js/lib/numbers.js";

test("numbers have four significant digits", () => {
  expect([0, 0.123456, 12.3456, 1234.56, 5e-5, -0.5, 123456].map(format)).toEqual([
    "0", "0.1235", "12.35", "1235", "5.000e-5", "-0.5", "1.235e+5",
  ]);
  expect(format(NaN)).toBe("NaN");
});

test("an error is split into what happened and what to do", () => {
  expect(explain("My node", "ValueError", "uem: not connected; connect a loader's uem output\n")).toEqual({
    summary: "My node: uem: not connected",
    remedy: "Connect a loader's uem output",
  });
});

test("a message without a remedy is shown whole", () => {
  expect(explain("My node", "KeyError", "'x'")).toEqual({ summary: "My node stopped", remedy: "'x'" });
});

test("out of memory names what helps", () => {
  const { summary, remedy } = explain("My node", "torch.OutOfMemoryError", "CUDA out of memory. Tried ...");
  expect(summary).toBe("My node: out of memory");
  expect(remedy).toContain("Lower tile in QUSR One-Step Denoise");
});
