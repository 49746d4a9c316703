// Asking the model: POST with JSON, and every failure as a Problem.

const setting = (name) => document.querySelector(`meta[name="${name}"]`).content;

/** Absolute address that the requests go to. */
export const PREDICTIONS = new URL(setting("dcgan-predictions"), document.baseURI).href;
const DESCRIPTION = new URL(setting("dcgan-description"), document.baseURI).href;

const KEY_ITEM = "dcgan-api-key";
const TIMEOUT_MS = 60_000;
const DESCRIPTION_TIMEOUT_MS = 5_000; // the page works without
const MOST_TRIES = 4;
const LONGEST_WAIT_S = 60;

const TITLES = {
  401: "An API key is needed",
  403: "This key may not do that",
  404: "There is no such model here",
  413: "The request is too large",
  429: "Too many requests",
  500: "The server failed",
  502: "The model server does not answer",
  503: "The server is busy, or not ready",
  504: "The model server took too long",
};
const ADVICE = {
  401: "Enter the key that the operator of this server gave you.",
  413: "Ask for fewer pictures.",
  429: "Wait a little, then try again.",
  502: "It may be starting, or be down. Try again in a moment.",
  503: "Try again in a moment.",
  504: "Try again, or ask for fewer pictures.",
};

/** What went wrong, in words; `field`, `seen` and `allowed` as in RFC 9457 replies. */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, field = "", seen = "", allowed = "" }) {
    super(detail || title);
    Object.assign(this, { title, detail, status, field, seen, allowed });
  }
}

/** The API key of this tab; empty when there is none. */
export const apiKey = () => sessionStorage.getItem(KEY_ITEM) ?? "";

/** Keep a key in this tab, or forget it when empty. */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY_ITEM, key);
  else sessionStorage.removeItem(KEY_ITEM);
}

/** Single pictures: {images: [base64 PNG], seeds, model, ...}, or {predictions} for instances. */
export async function askImages(request, options) {
  const response = await ask(request, "application/json", options);
  return response.json();
}

/** One grid as the server's own PNG file. */
export async function askPng(request, options) {
  const response = await ask(request, "image/png", options);
  return response.blob();
}

/** What the model says of itself, or null where this server does not tell. */
export async function describe() {
  try {
    const signal = AbortSignal.timeout(DESCRIPTION_TIMEOUT_MS);
    const response = await fetch(DESCRIPTION, { headers: keyHeader(), signal });
    return response.ok ? ((await response.json())[0]?.customizedMetadata ?? null) : null;
  } catch {
    return null;
  }
}

/** The source of an <img> from a base64 PNG. */
export const pictureUrl = (base64) => `data:image/png;base64,${base64}`;

/** The PNG file in such a source: the server's own bytes. */
export function fileOf(url) {
  const bytes = Uint8Array.from(atob(url.split(",")[1]), (byte) => byte.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

function keyHeader() {
  const key = apiKey();
  return key ? { "X-API-Key": key } : {};
}

/**
 * One request. 429 and 503 with Retry-After are tried again after the wait that they ask for.
 *
 * signal: aborts it. onWait: told the seconds before each new try.
 */
async function ask(request, accept, { signal, onWait = () => {} } = {}) {
  for (let tries = 1; ; tries += 1) {
    const response = await send(request, accept, signal);
    if (response.ok) return response;
    const wait = retryAfter(response.headers.get("Retry-After"));
    const again = [429, 503].includes(response.status) && wait !== null;
    if (!again || wait > LONGEST_WAIT_S || tries === MOST_TRIES) {
      throw await problemOf(response, wait);
    }
    onWait(wait);
    await sleep(wait, signal);
  }
}

async function send(request, accept, signal) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  try {
    return await fetch(PREDICTIONS, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: accept, ...keyHeader() },
      body: JSON.stringify(request),
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    if (timeout.aborted) {
      throw new Problem({ title: `No answer in ${TIMEOUT_MS / 1000} s`, detail: ADVICE[504] });
    }
    throw new Problem({
      title: "The server cannot be reached",
      detail: `Nothing answers at ${PREDICTIONS}. Is it running, and is the network up?`,
    });
  }
}

/** Seconds that a Retry-After header asks for (RFC 9110, 10.2.3), or null. */
function retryAfter(header) {
  if (header === null) return null;
  if (/^\s*\d+\s*$/.test(header)) return Number(header);
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, Math.ceil((at - Date.now()) / 1000));
}

const sleep = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, seconds * 1000);
  signal?.addEventListener("abort", () => {
    clearTimeout(timer);
    reject(signal.reason);
  });
});

/** The Problem in a reply, whatever wrote it: the model, TorchServe or a proxy. */
async function problemOf(response, wait) {
  const status = response.status;
  let found = {};
  try {
    found = (await response.json()) ?? {};
  } catch {
    // An error page of a proxy: its status says enough.
  }
  const advice = wait === null ? ADVICE[status] : `Try again in ${wait} s.`;
  return new Problem({
    status,
    title: found.title ?? TITLES[status] ?? `The server answered ${status}`,
    detail: found.detail ?? found.message ?? advice,
    field: found.field,
    seen: found.seen,
    allowed: found.allowed,
  });
}
