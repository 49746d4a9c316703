// The kept pictures, known by their seeds, in the order of keeping.

import { askImages, pictureUrl } from "./api.js";
import { $, latest, make, notify, say } from "./dom.js";
import { mostImages, mostKeys } from "./fields.js";
import { attempt, sayWait } from "./report.js";
import { saveButtons } from "./save.js";
import { lookOf } from "./store.js";

const urls = new Map(); // seed -> data: URL of its picture

/** An <img> of a kept seed; its picture comes when it is known. */
export function keptImage(seed) {
  const image = make("img", { alt: "", draggable: false });
  image.dataset.seed = seed;
  if (urls.has(seed)) image.src = urls.get(seed);
  return image;
}

/** Keep a seed, or let it go. */
export function toggle(store, seed, url) {
  const { keep } = store.state;
  if (keep.includes(seed)) {
    letGo(store, seed);
  } else if (keep.length >= mostKeys()) {
    notify(`${mostKeys()} pictures are kept, and a walk takes no more. Remove one first.`);
  } else {
    urls.set(seed, url);
    store.set({ keep: [...keep, seed] });
    say(`Kept seed ${seed}.`);
  }
}

function letGo(store, seed) {
  const without = (seeds) => seeds.filter((one) => one !== seed);
  const { keep, a, b, c } = store.state;
  store.set({ keep: without(keep), a: without(a), b: without(b), c: without(c), frame: 0 });
  say(`Removed seed ${seed}.`);
}

/** Make the shelf work. */
export function shelf(store) {
  const one = latest();

  async function fetchMissing() {
    const missing = store.state.keep.filter((seed) => !urls.has(seed));
    if (missing.length === 0) return;
    await attempt($("kept-problem"), fetchMissing, () => one(async (signal) => {
      for (let at = 0; at < missing.length; at += mostImages()) {
        const seeds = missing.slice(at, at + mostImages());
        const request = { seeds, ...lookOf(store.state) };
        const { images } = await askImages(request, { signal, onWait: sayWait });
        images.forEach((image, i) => urls.set(seeds[i], pictureUrl(image)));
      }
      for (const image of document.querySelectorAll("img[data-seed]")) {
        image.src = urls.get(Number(image.dataset.seed)) ?? image.src;
      }
    }));
  }

  function remove(seed) {
    const at = store.state.keep.indexOf(seed);
    letGo(store, seed);
    const buttons = $("shelf").querySelectorAll("button");
    (buttons[Math.min(at, buttons.length - 1)] ?? $("grid").querySelector("[tabindex='0']"))
      ?.focus();
  }

  function render() {
    const { keep } = store.state;
    $("shelf").replaceChildren(...keep.map((seed) => make("li", {}, make("button", {
      type: "button",
      className: "tile kept",
      title: `Remove seed ${seed}`,
      attributes: { "aria-label": `Remove seed ${seed}` },
      onclick: () => remove(seed),
    }, keptImage(seed)))));
    $("kept-count").textContent = keep.length || "";
    $("kept-empty").hidden = keep.length > 0;
    for (const id of ["kept-actions", "kept-clear", "to-kept"]) $(id).hidden = keep.length === 0;
    $("to-kept").textContent = `Kept ${keep.length} ↓`;
    fetchMissing();
  }

  $("kept-clear").addEventListener("click", () => {
    store.set({ keep: [], a: [], b: [], c: [], frame: 0 });
    say("Nothing is kept.");
    $("kept-title").focus();
  });
  $("to-kept").addEventListener("click", () => {
    $("kept-title").scrollIntoView();
    $("kept-title").focus({ preventScroll: true });
  });
  saveButtons("kept", $("kept-problem"), () => ({
    request: { seeds: store.state.keep, ...lookOf(store.state) },
    file: "dcgan-kept.png",
  }));
  store.on(["keep"], render);
  store.on(["truncation", "edit"], () => {
    urls.clear();
    fetchMissing();
  });
  render();
}
