// Seeds to a grid of pictures.

import { askImages, pictureUrl } from "./api.js";
import { $, latest, make, say } from "./dom.js";
import { valueOf } from "./fields.js";
import { attempt, sayWait } from "./report.js";
import { saveButtons } from "./save.js";
import { toggle } from "./shelf.js";

const INPUTS = { seed: "seed", num_images: "count", columns: "columns" }; // field -> element

/** Make the form and the grid work. `onModel` is told {name, version, weights_sha256}. */
export function draw(store, onModel) {
  const one = latest();
  const grid = $("grid");
  let shown = null; // the request of the pictures in the grid, with the seed that was used

  /** Draw what the state says. */
  async function refresh() {
    fill();
    await attempt($("draw-problem"), refresh, () => one(async (signal) => {
      mark("");
      try {
        await drawn(signal);
      } catch (error) {
        if (error.field) mark(error.field);
        throw error;
      } finally {
        if (!signal.aborted) busy(false);
      }
    }));
  }

  async function drawn(signal) {
    const { seed, count, columns } = store.state;
    const request = {
      ...(seed.trim() && { seed: valueOf("seed", "Seed", seed) }),
      num_images: valueOf("num_images", "Number of pictures", count),
      ...(columns.trim() && { columns: valueOf("columns", "Number of columns", columns) }),
    };
    busy(true);
    say("Drawing.");
    const reply = await askImages(request, { signal, onWait: sayWait });
    const { seeds } = reply;
    shown = { seed: seeds[0], ...request };
    if (!("seed" in request)) {
      store.set({ seed: String(seeds[0]) }); // so that the address shows this very view again
      $("seed").value = store.state.seed;
    }
    lay(reply, columns.trim() ? reply.grid.columns : null);
    onModel(reply.model);
    const range = seeds.length === 1 ? `seed ${seeds[0]}` : `seeds ${seeds[0]} to ${seeds.at(-1)}`;
    const many = seeds.length === 1 ? "1 picture" : `${seeds.length} pictures`;
    $("summary").textContent = `${many}, ${range}`;
    say(`Drew ${$("summary").textContent}.`);
  }

  function lay({ images, seeds }, columns) {
    grid.style.setProperty("--columns", columns ?? "auto-fill");
    grid.dataset.size = images.length <= 4 ? "large" : images.length <= 16 ? "medium" : "small";
    grid.classList.toggle("fixed", columns !== null);
    grid.replaceChildren(...images.map((image, i) => tile(seeds[i], pictureUrl(image))));
    grid.firstElementChild.tabIndex = 0;
    markKept();
  }

  function tile(seed, url) {
    const button = make("button", {
      type: "button",
      className: "tile",
      tabIndex: -1,
      attributes: { "aria-label": `Seed ${seed}` },
      onclick: () => {
        rove(button);
        toggle(store, seed, url);
      },
    },
    make("img", { src: url, alt: "", draggable: false }),
    make("span", { className: "seed", textContent: seed, attributes: { "aria-hidden": "true" } }));
    button.dataset.seed = seed;
    return button;
  }

  function markKept() {
    const kept = new Set(store.state.keep);
    for (const button of grid.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", kept.has(Number(button.dataset.seed)));
    }
  }

  /** Only one tile can be reached by Tab: the one that was used last. */
  function rove(button) {
    for (const other of grid.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
  }

  grid.addEventListener("keydown", (event) => {
    const tiles = [...grid.querySelectorAll("button")];
    const at = tiles.indexOf(document.activeElement);
    const row = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
    const to = event.key === "Home" ? 0
      : event.key === "End" ? tiles.length - 1
      : event.key in moves ? at + moves[event.key] : null;
    if (at < 0 || to === null || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (tiles[to]) rove(tiles[to]);
  });

  function busy(on) {
    grid.setAttribute("aria-busy", on);
    for (const id of ["draw-download", "draw-curl"]) $(id).disabled = on || shown === null;
    if (on && grid.childElementCount === 0) {
      const count = Math.min(Number(store.state.count) || 0, 256);
      grid.replaceChildren(...Array.from({ length: count }, () =>
        make("div", { className: "tile waiting" })));
    } else if (!on && grid.querySelector(".waiting")) {
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

  function fill() {
    for (const id of Object.values(INPUTS)) $(id).value = store.state[id];
  }

  const typed = () => Object.fromEntries(Object.values(INPUTS).map((id) => [id, $(id).value]));
  $("draw-form").addEventListener("submit", (event) => {
    event.preventDefault();
    store.set(typed());
    refresh();
  });
  $("random").addEventListener("click", () => {
    store.set({ ...typed(), seed: "" });
    refresh();
  });
  saveButtons("draw", $("draw-problem"), () => ({
    request: shown,
    file: `dcgan-seed-${shown.seed}-${shown.num_images}.png`,
  }));
  store.on(["keep"], markKept);
  addEventListener("hashchange", refresh);
  return refresh();
}
