// One picture of the grid, as large as the window allows.

import { $, notify } from "./dom.js";
import { copy, saveButtons } from "./save.js";
import { toggle } from "./shelf.js";
import { lookOf } from "./store.js";

/**
 * Make the dialog work. `onClose` is told which picture was shown last.
 *
 * Returns the function that opens it: (pictures, at), a picture being {seed, url}.
 */
export function viewer(store, onClose) {
  const dialog = $("viewer");
  let items = [];
  let at = 0;

  function show(to) {
    at = (to + items.length) % items.length;
    const { seed, url } = items[at];
    Object.assign($("view-image"), { src: url, alt: `Seed ${seed}` });
    $("view-title").textContent = `Seed ${seed}`;
    $("view-place").textContent = `${at + 1} of ${items.length}`;
    markKept();
  }

  function markKept() {
    const kept = items.length > 0 && store.state.keep.includes(items[at].seed);
    $("view-keep").setAttribute("aria-pressed", kept);
  }

  $("view-image").addEventListener("load", ({ target }) => {
    dialog.style.setProperty("--pixels", `${target.naturalWidth}px`);
  });
  dialog.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(to);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  dialog.addEventListener("close", () => onClose(at));
  $("view-back").addEventListener("click", () => show(at - 1));
  $("view-next").addEventListener("click", () => show(at + 1));
  $("view-keep").addEventListener("click", () => toggle(store, items[at].seed, items[at].url));
  $("view-copy").addEventListener("click", () => copy(String(items[at].seed), "The seed"));
  saveButtons("view", $("draw-problem"), () => {
    const { seed } = items[at];
    return { request: { seed, ...lookOf(store.state) }, file: `dcgan-seed-${seed}.png` };
  });
  store.on(["keep"], markKept);

  return (pictures, first) => {
    items = pictures;
    show(first);
    dialog.showModal();
  };
}
