// Asking the model: POST with JSON, and every failure as a Problem.

const setting = (name) => document.querySelector(`meta[name="${name}"]`).content;

/** Absolute address that the requests go to, and what stands before the address of a picture. */
export const PREDICTIONS = new URL(setting("dcgan-predictions"), document.baseURI).href;
export const ROOT = PREDICTIONS.replace(/\/predictions\/[^/]*$/, "");
const DESCRIPTION = new URL(setting("dcgan-description"), document.baseURI).href;

const KEY_ITEM = "dcgan-api-key";
const TIMEOUT_MS = 60_000;
const DESCRIPTION_TIMEOUT_MS = 5_000; // the page works without
// When a call is tried again, and after which wait: the rule of client/session.py.
const RETRIED = [429, 503];
const MOST_RETRIES = 4;
const BACKOFF_S = 0.4;
const LONGEST_WAIT_S = 30;
const PNG_HEAD = "\x89PNG\r\n\x1a\n";
const PNG_TAIL = "IEND\xaeB`\x82";

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

/** What the tab's storage says; null where the browser keeps it shut. */
function stored(use) {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}

let key = stored((storage) => storage.getItem(KEY_ITEM)) ?? "";

/** The API key of this tab; empty when there is none. */
export const apiKey = () => key;

/** Keep a key in this tab, or forget it when empty. Without storage the page alone holds it. */
export function setApiKey(text) {
  key = text;
  stored((storage) => (key ? storage.setItem(KEY_ITEM, key) : storage.removeItem(KEY_ITEM)));
}

let weightsSha256 = "";
let directionsSha256 = "";

/** SHA-256 of the weights that drew last; empty when nothing was drawn yet. */
export const weights = () => weightsSha256;

/** SHA-256 of their directions; empty when there are none. */
export const directions = () => directionsSha256;

/** Pictures one by one: {images: [base64 PNG], seeds (null for a walk), model}. */
export function askImages(request, options) {
  return ask(request, "application/json", options, async (response) => {
    const reply = await response.json();
    const seeded = "walk" in request || reply.seeds.length === reply.images.length;
    if (!seeded || !isOurs(reply)) throw new SyntaxError("no pictures");
    weightsSha256 = reply.model.weights_sha256;
    directionsSha256 = response.headers.get("X-Directions-SHA256") ?? "";
    return reply;
  });
}

/** The first picture of each of several requests, base64 PNG. */
export function askEach(instances, options) {
  return ask({ instances }, "application/json", options, async (response) => {
    const { predictions } = await response.json();
    if (predictions.length !== instances.length || !predictions.every(isOurs)) {
      throw new SyntaxError("no pictures");
    }
    return predictions.map(({ images }) => images[0]);
  });
}

/** One grid as the server's own PNG file. */
export function askPng(request, options) {
  return ask(request, "image/png", options, async (response) => {
    const bytes = new Uint8Array(await response.arrayBuffer());
    const text = (part) => String.fromCharCode(...part);
    if (!isPng(text(bytes.slice(0, 8)), text(bytes.slice(-8)))) throw new SyntaxError("no PNG");
    return new Blob([bytes], { type: "image/png" });
  });
}

/** A moving picture, one frame an image: "webp" or "gif". */
export function askMoving(request, type, options) {
  return ask(request, `image/${type}`, options, async (response) => {
    const bytes = new Uint8Array(await response.arrayBuffer());
    const head = String.fromCharCode(...bytes.slice(0, 12));
    if (!/^(RIFF....WEBP|GIF89a)/s.test(head)) throw new SyntaxError("no moving picture");
    return new Blob([bytes], { type: `image/${type}` });
  });
}

/** Whole pictures with what the page says of them, and not just something in JSON. */
function isOurs({ images, model }) {
  return images.length > 0 && typeof model.weights_sha256 === "string"
    && images.every((image) => isPng(atob(image.slice(0, 12)), atob(image.slice(-16))));
}

const isPng = (head, tail) => head.startsWith(PNG_HEAD) && tail.endsWith(PNG_TAIL);

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
  return key ? { "X-API-Key": key } : {};
}

/**
 * What `read` makes of the reply to one request.
 *
 * signal: aborts it. onWait: told the seconds before each new try, if there are any to speak of.
 */
async function ask(request, accept, { signal, onWait = () => {} }, read) {
  for (let retries = 0; ; retries += 1) {
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
    let response = null;
    try {
      response = await fetch(PREDICTIONS, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: accept, ...keyHeader() },
        body: JSON.stringify(request),
        redirect: "error",
        signal: either,
      });
      if (response.ok) return await read(response);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw failure(response, timeout.aborted);
    }
    const told = retryAfter(response.headers.get("Retry-After"));
    if (!RETRIED.includes(response.status) || retries === MOST_RETRIES) {
      throw await problemOf(response, told);
    }
    const backoff = Math.random() * Math.min(LONGEST_WAIT_S, BACKOFF_S * 2 ** retries);
    const wait = Math.min(told, LONGEST_WAIT_S) || backoff;
    if (wait >= 1) onWait(Math.round(wait));
    await sleep(wait, signal);
  }
}

/** Why there are no pictures though no server refused them. */
function failure(response, late) {
  if (late) return new Problem({ title: `No answer in ${TIMEOUT_MS / 1000} s`, detail: ADVICE[504] });
  if (response) {
    return new Problem({
      title: "The answer is not the model's, or broke off",
      detail: "Try again. If that does not help, something between here and the server may have "
        + "answered, such as the log-in page of a network.",
    });
  }
  return new Problem({
    title: "The server cannot be reached",
    detail: `Nothing answers at ${PREDICTIONS}. Is it running, and is the network up?`,
  });
}

/** Seconds that a Retry-After header asks for (RFC 9110, 10.2.3); 0 where it asks for none. */
function retryAfter(header) {
  if (/^\s*\d+\s*$/.test(header)) return Number(header);
  return Math.max(0, Math.ceil((Date.parse(header) - Date.now()) / 1000)) || 0;
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
  const { status } = response;
  // An error page of a proxy is no JSON: its status says enough.
  const found = (await response.json().catch(() => null)) ?? {};
  const told = Object.fromEntries(["title", "detail", "message", "field", "seen", "allowed"]
    .filter((name) => typeof found[name] === "string").map((name) => [name, found[name]]));
  return new Problem({
    title: TITLES[status] ?? `The server answered ${status}`,
    detail: told.message ?? (wait ? `Try again in ${wait} s.` : ADVICE[status]),
    ...told,
    status,
  });
}
