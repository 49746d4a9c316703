// Seeds to a grid of pictures.

import { askImages, pictureUrl } from "./api.js";
import { $, latest, make, say } from "./dom.js";
import { mostImages, valueOf } from "./fields.js";
import { attempt, sayWait } from "./report.js";
import { saveButtons } from "./save.js";
import { toggle } from "./shelf.js";
import { lookOf } from "./store.js";
import { viewer } from "./viewer.js";

const INPUTS = { seed: "seed", num_images: "count", columns: "columns" }; // field -> element
const COUNTS = [36, 24, 18, 12, 8, 6, 4, 3, 2, 1]; // drawn unless told: they make whole rows
const GAP_PX = 10; // as in gallery.css
const AREA_PX = 700; // the height that the grid would fill

/** Columns of whole rows, or nearly so, of pictures as large as suits their number. */
function columnsFor(count, width) {
  const least = width < 560 ? 104 : 128;
  const ideal = Math.min(240, Math.max(least, Math.sqrt((width * AREA_PX) / count)));
  const cost = (columns) => {
    const empty = (columns - (count % columns)) % columns; // at the end of the last row
    return (empty && 0.25 + empty / columns) + 1.5 * Math.abs(Math.log((width + GAP_PX) / columns / (ideal + GAP_PX)));
  };
  const choices = Array.from({ length: Math.min(count, 32) }, (_, i) => i + 1);
  return choices.reduce((best, one) => (cost(one) < cost(best) ? one : best));
}

/** Make the form and the grid work. `onModel` is told {name, version, weights_sha256}. */
export function draw(store, onModel) {
  const one = latest();
  const grid = $("grid");
  const view = viewer(store, (at) => {
    const card = tiles()[at]; // gone if the address changed meanwhile
    if (card) rove(card.firstElementChild);
  });
  let asked = store.state; // what is to be drawn, as typed
  let push = false; // whether Back is to return to what was shown before
  let shown = null; // the request of the pictures in the grid, with the seed that was used

  const tiles = () => [...grid.querySelectorAll("[data-seed]")];

  /** Draw what was asked. */
  async function refresh() {
    fill(asked);
    await attempt($("draw-problem"), refresh, () => one(async (signal) => {
      mark("");
      try {
        await drawn(signal);
      } catch (error) {
        if (error.field) mark(error.field);
        throw error;
      } finally {
        if (!signal.aborted) busy(0);
      }
    }));
  }

  async function drawn(signal) {
    const { seed, columns } = asked;
    const count = asked.count.trim() || String(COUNTS.find((some) => some <= mostImages()));
    const request = {
      ...(seed.trim() && { seed: valueOf("seed", "Seed", seed) }),
      num_images: valueOf("num_images", "Number of pictures", count),
      ...(columns.trim() && { columns: valueOf("columns", "Number of columns", columns) }),
      ...lookOf(store.state),
    };
    busy(Math.min(Number(count) || 0, mostImages()));
    say("Drawing.");
    const reply = await askImages(request, { signal, onWait: sayWait });
    const { seeds } = reply;
    shown = { seed: seeds[0], ...request };
    // The address shows this very view again, whatever was left to be chosen.
    store.set({ seed: String(seeds[0]), count: String(seeds.length), columns }, { push });
    fill(store.state);
    lay(reply);
    onModel(reply.model);
    const range = seeds.length === 1 ? `seed ${seeds[0]}` : `seeds ${seeds[0]} to ${seeds.at(-1)}`;
    const many = seeds.length === 1 ? "1 picture" : `${seeds.length} pictures`;
    $("summary").textContent = `${many}, ${range}`;
    say(`Drew ${$("summary").textContent}.`);
  }

  function lay({ images, seeds }) {
    const items = images.map((image, i) => ({ seed: seeds[i], url: pictureUrl(image) }));
    grid.replaceChildren(...items.map((item, i) => tile(item, () => view(items, i))));
    for (const button of grid.firstElementChild.children) button.tabIndex = 0;
    arrange();
    markKept();
  }

  function arrange() {
    const columns = shown?.columns ?? columnsFor(grid.childElementCount, $("pictures").clientWidth);
    grid.style.setProperty("--columns", columns);
    grid.classList.toggle("fixed", Boolean(shown?.columns));
  }

  function tile({ seed, url }, open) {
    const button = (className, label, onclick, ...children) => {
      const one = make("button", { type: "button", className, tabIndex: -1,
        attributes: { "aria-label": label } }, ...children);
      one.onclick = () => {
        rove(one);
        onclick();
      };
      return one;
    };
    const card = make("div", { className: "card tile" },
      button("open", `Seed ${seed}`, open, make("img", { src: url, alt: "", draggable: false })),
      button("keep", `Keep seed ${seed}`, () => toggle(store, seed, url),
        make("span", { textContent: seed })));
    card.dataset.seed = seed;
    return card;
  }

  function markKept() {
    const kept = new Set(store.state.keep);
    for (const card of tiles()) {
      card.lastElementChild.setAttribute("aria-pressed", kept.has(Number(card.dataset.seed)));
    }
  }

  /** Only one tile can be reached by Tab: the one that was used last. */
  function rove(button) {
    for (const other of grid.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    for (const both of button.parentNode.children) both.tabIndex = 0;
    button.focus();
  }

  grid.addEventListener("keydown", (event) => {
    const all = tiles();
    const at = all.indexOf(event.target.parentNode);
    const row = all.filter((one) => one.offsetTop === all[0].offsetTop).length;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
    const to = event.key === "Home" ? 0
      : event.key === "End" ? all.length - 1
      : event.key in moves ? at + moves[event.key] : null;
    if (at < 0 || to === null || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (all[to]) rove(all[to].querySelector(`.${event.target.className}`));
  });

  /** Wait for so many pictures; 0: no more. */
  function busy(count) {
    grid.setAttribute("aria-busy", count > 0);
    for (const id of ["draw-download", "draw-curl", "draw-address"]) $(id).disabled = count > 0 || shown === null;
    if (count > 0 && grid.childElementCount === 0) {
      grid.replaceChildren(...Array.from({ length: count }, () =>
        make("div", { className: "card tile waiting" })));
      arrange();
    } else if (count === 0 && grid.querySelector(".waiting")) {
      grid.replaceChildren();
    }
  }

  /** Mark the input of a field as wrong, and go there; "" clears all marks. */
  function mark(field) {
    for (const [name, id] of Object.entries(INPUTS)) {
      $(id).setAttribute("aria-invalid", name === field);
      if (name === field) $(id).focus();
    }
  }

  function fill(values) {
    for (const id of Object.values(INPUTS)) $(id).value = values[id];
  }

  /** Draw what is in the form. */
  function submit(seed) {
    asked = { seed, count: $("count").value, columns: $("columns").value };
    push = true;
    refresh();
  }
  $("draw-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit($("seed").value);
  });
  $("random").addEventListener("click", () => submit(""));
  saveButtons("draw", $("draw-problem"), () => ({
    request: shown,
    file: `dcgan-seed-${shown.seed}-${shown.num_images}.png`,
  }));
  store.on(["keep"], markKept);
  store.on(["truncation", "edit"], () => {
    push = false;
    refresh();
  });
  new ResizeObserver(() => {
    if (grid.childElementCount > 0) arrange();
  }).observe($("pictures"));
  addEventListener("hashchange", () => {
    asked = store.state;
    push = false;
    refresh();
  });
  return refresh();
}
