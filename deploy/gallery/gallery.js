// The page: seeds to pictures, pictures to keep, kept ones to walk between and to add up.

import { $ } from "./dom.js";
import { draw } from "./draw.js";
import { learn } from "./fields.js";
import { mix } from "./mix.js";
import { look } from "./look.js";
import { recipes } from "./recipe.js";
import { keyDialog } from "./report.js";
import { shelf } from "./shelf.js";
import { Store } from "./store.js";
import { walk } from "./walk.js";

const TABS = ["walk", "mix"];

/** Tabs by the ARIA pattern: arrow keys move, and show at once. */
function tabs(store) {
  const render = () => {
    for (const name of TABS) {
      const on = store.state.view === name;
      $(`tab-${name}`).setAttribute("aria-selected", on);
      $(`tab-${name}`).tabIndex = on ? 0 : -1;
      $(`panel-${name}`).hidden = !on;
    }
  };
  for (const [i, name] of TABS.entries()) {
    $(`tab-${name}`).addEventListener("click", () => store.set({ view: name }));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      const other = TABS[(i + 1) % TABS.length];
      store.set({ view: other });
      $(`tab-${other}`).focus();
    });
  }
  store.on(["view"], render);
  render();
}

let description = null;
let sliders = null;
let model = null;

/** Ask the model for its limits and facts; again when there is a key. */
async function meet() {
  description = await learn();
  sliders?.(description);
  showFacts();
}

/** The line under the title: which model this is. */
function showFacts() {
  if (!model) return;
  const parts = [`${model.name} ${model.version}`, `weights ${model.weights_sha256.slice(0, 8)}`];
  if (description) {
    const { image_size: size } = description.model;
    parts.push(`${size} × ${size} px`, `${description.backend} on ${description.device}`);
  }
  $("facts").textContent = parts.join(" · ");
}

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the view, and no anchor
  ($("grid").querySelector("[tabindex='0']") ?? $("pictures")).focus();
});

await meet();
const store = new Store();
sliders = look(store);
sliders(description);
recipes(store);
keyDialog(meet);
tabs(store);
shelf(store);
walk(store);
mix(store);
await draw(store, (drawnBy) => {
  model = drawnBy;
  showFacts();
});
