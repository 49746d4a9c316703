// What users type, held against the server's own limits.

import { Problem } from "./api.js";

// Until the server has described itself, or where it does not: only what JavaScript itself needs.
let limits = null;

/** Take the limits out of the server's description of itself. */
export function useDescription(description) {
  const properties = description?.request?.properties ?? {};
  const defs = description?.request?.$defs ?? {};
  const range = (schema) => (schema?.anyOf ?? [schema ?? {}]).find((one) => "maximum" in one);
  const found = {
    seed: range(properties.seed),
    num_images: range(properties.num_images),
    columns: range(properties.columns),
    "walk.steps": range(defs.Walk?.properties?.steps),
    keys: defs.Walk?.properties?.between?.maxItems,
  };
  limits = Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
}

/** The most latents that a walk goes through. */
export const mostKeys = () => limits?.keys ?? 64;

/**
 * The value to send for what was typed in a field of the request.
 *
 * A whole number within the limits is sent as a number. Without limits everything else is sent as
 * typed, so that the server's own error says what is wrong with it.
 */
export function valueOf(field, label, typed) {
  const text = typed.trim();
  const whole = /^-?\d+$/.test(text);
  const range = limits?.[field];
  if (range) {
    const { minimum, maximum } = range;
    if (!whole || BigInt(text) < BigInt(minimum) || BigInt(text) > BigInt(maximum)) {
      throw new Problem({
        title: `${label} is not allowed`,
        field,
        seen: text === "" ? "nothing" : text,
        allowed: `a whole number from ${minimum} to ${maximum}`,
      });
    }
  }
  return whole && Number.isSafeInteger(Number(text)) ? Number(text) : text;
}
