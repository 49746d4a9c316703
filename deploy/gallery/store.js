// What the page shows, and the same in the address so that a view can be shared.

const DEFAULTS = {
  seed: "1", // as typed; empty is random
  count: "", // empty is what suits the server
  columns: "", // empty is as many as fit
  keep: [], // seeds
  view: "walk",
  steps: "", // as count
  method: "slerp",
  frame: 0,
  truncation: "1",
  edit: [], // direction~strength, of all pictures
  a: [], // seeds of the terms; each is kept too
  b: [],
  c: [],
};
const ALWAYS = ["seed", "count"]; // in the address, so that it still means the same later
const EDIT = /^[a-z][a-z0-9-]{0,39}~-?\d+(\.\d+)?$/;
const CHOICES = { view: ["walk", "mix"], method: ["slerp", "linear"] };

/** State with listeners by key; every change goes into the address. */
export class Store {
  #listeners = [];

  constructor() {
    this.state = read(location.hash);
    addEventListener("hashchange", () => {
      const found = read(location.hash);
      // Back and Forward are between draws, and lose nothing that was kept since.
      const { keep, a, b, c } = this.state;
      if (history.state) this.set({ ...found, keep, a, b, c });
      else this.#change(found);
    });
  }

  /** Change some keys, write the address, and tell who listens to them; `push`: Back undoes it. */
  set(patch, { push = false } = {}) {
    this.#change(patch);
    const address = write(this.state);
    try {
      if (push && address !== location.hash) history.pushState(true, "", address);
      else history.replaceState(true, "", address);
    } catch {
      // Some browsers allow a number of changes a minute; the page does without.
    }
  }

  /** Show another view, as if its address had been opened. */
  visit(patch) {
    location.hash = write({ ...this.state, ...patch });
  }

  /** Call back when one of these keys has changed. */
  on(keys, listener) {
    this.#listeners.push([keys, listener]);
  }

  #change(patch) {
    const before = this.state;
    this.state = { ...before, ...patch };
    const changed = Object.keys(patch).filter(
      (key) => String(before[key]) !== String(this.state[key]),
    );
    for (const [keys, listener] of this.#listeners) {
      if (keys.some((key) => changed.includes(key))) listener();
    }
  }
}

/** The fields of a request that change every picture: truncation and edit, as far as there are. */
export function lookOf({ truncation, edit }) {
  const strengths = edit.map((item) => item.split("~")).map(([name, value]) => [name, Number(value)]);
  return {
    ...(truncation !== "1" && { truncation: Number(truncation) }),
    ...(edit.length > 0 && { edit: Object.fromEntries(strengths) }),
  };
}

/** `edit` of the state with another strength of one direction; 0 takes it out. */
export function withStrength(edit, name, strength) {
  const others = edit.filter((item) => !item.startsWith(`${name}~`));
  return strength === 0 ? others : [...others, `${name}~${strength}`];
}

/** What the page shows of a request; null where it cannot: of latents, and of arithmetic. */
export function stateOf({ seed, num_images: count = 1, columns, seeds, walk, truncation = 1, edit = {} }) {
  const look = {
    truncation: String(truncation),
    edit: Object.entries(edit).map(([name, strength]) => `${name}~${strength}`),
  };
  if (seed !== undefined) {
    return { ...look, seed: String(seed), count: String(count), columns: String(columns ?? "") };
  }
  const keep = seeds ?? walk?.between;
  const known = keep?.every(Number.isSafeInteger) && new Set(keep).size === keep.length;
  if (!known || walk?.closed) return null;
  if (seeds) return { ...look, keep };
  return { ...look, keep, view: "walk", steps: String(walk.steps), method: walk.method ?? "slerp", frame: 0 };
}

/** State from an address; what is missing or makes no sense is as at the start. */
function read(hash) {
  const state = { ...DEFAULTS };
  for (const [key, value] of new URLSearchParams(hash.slice(1))) {
    if (!Object.hasOwn(DEFAULTS, key)) continue;
    if (key === "edit") state.edit = value.split(",").filter((item) => EDIT.test(item));
    else if (key === "truncation") state.truncation = /^(0?\.\d+|1)$/.test(value) ? value : "1";
    else if (Array.isArray(DEFAULTS[key])) state[key] = seedsIn(value);
    else if (key === "frame") state.frame = /^\d{1,4}$/.test(value) ? Number(value) : 0;
    else if (CHOICES[key]?.includes(value) ?? true) state[key] = value;
  }
  for (const term of ["a", "b", "c"]) {
    state[term] = state[term].filter((seed) => state.keep.includes(seed));
  }
  return state;
}

function seedsIn(text) {
  const seeds = text.split(",").filter((item) => /^\d{1,16}$/.test(item)).map(Number);
  return [...new Set(seeds.filter(Number.isSafeInteger))];
}

function write(state) {
  const parts = Object.keys(DEFAULTS)
    .filter((key) => ALWAYS.includes(key) || String(state[key]) !== String(DEFAULTS[key]))
    .map((key) => `${key}=${[state[key]].flat().map(encodeURIComponent).join(",")}`);
  return `#${parts.join("&")}`;
}
