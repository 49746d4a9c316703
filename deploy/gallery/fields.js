// The server's own limits: what users type is held against them, and what the page asks for by
// itself keeps to them.

import { describe, Problem } from "./api.js";

// Of one picture in a reply, beside its pixels: its text but for the latent, its seed, rounding.
const TEXT_BYTES = 2048;

// Until the server has described itself, or where it does not: only what JavaScript itself needs.
let limits = {};

/** Ask the server for its limits. Returns what it says of itself; null where it does not. */
export async function learn() {
  try {
    const found = await describe();
    const { properties, $defs: defs } = found.request;
    const range = (schema) => (schema.anyOf ?? [schema]).find((one) => "maximum" in one);
    const { image_size: size, channels, nz } = found.model;
    const { max_images: images, max_reply_bytes: bytes } = found.limits;
    const perImage = (4 / 3) * (1.01 * size * (size * channels + 1) + TEXT_BYTES + 6 * nz);
    limits = {
      seed: range(properties.seed),
      num_images: range(properties.num_images),
      columns: range(properties.columns),
      "walk.steps": range(defs.Walk.properties.steps),
      keys: Math.min(defs.Walk.properties.between.maxItems, images),
      images: Math.max(1, Math.min(images, Math.floor(bytes / perImage))),
    };
    return found;
  } catch {
    limits = {};
    return null; // it is not told, or is not ours
  }
}

/** The most latents that a walk goes through. */
export const mostKeys = () => limits.keys ?? 64;

/** The most pictures that one reply is sure to hold. */
export const mostImages = () => limits.images ?? 256;

/**
 * The value to send for what was typed in a field of the request.
 *
 * A whole number within the limits is sent as a number. Without limits everything else is sent as
 * typed, so that the server's own error says what is wrong with it.
 */
export function valueOf(field, label, typed) {
  const text = typed.trim();
  const whole = /^-?\d+$/.test(text);
  const range = limits[field];
  if (range) {
    const { minimum, maximum } = range;
    if (!whole || BigInt(text) < BigInt(minimum) || BigInt(text) > BigInt(maximum)) {
      throw new Problem({
        title: `${label} is not allowed`,
        field,
        seen: text,
        allowed: `a whole number from ${minimum} to ${maximum}`,
      });
    }
  }
  return whole && Number.isSafeInteger(Number(text)) ? Number(text) : text;
}
