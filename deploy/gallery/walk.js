// The path between the kept pictures, frame by frame.

import { askImages, askMoving, fileOf, pictureUrl } from "./api.js";
import { $, latest, make, say } from "./dom.js";
import { mostImages, valueOf } from "./fields.js";
import { attempt, sayWait } from "./report.js";
import { saveButtons, saveFile } from "./save.js";
import { lookOf } from "./store.js";

const USE = ["slider", "play", "frame-download", "download", "webp", "gif", "curl", "address"]
  .map((name) => `walk-${name}`);
const EXAMPLE = [8, 29, 12]; // seeds to walk between until two pictures are kept
const STEPS = 24; // or as many as one reply holds
const FRAME_MS = 90;
const SETTLE_MS = 200; // several clicks make one request

/** Make the walk work. */
export function walk(store) {
  const one = latest();
  const slider = $("walk-slider");
  let frames = []; // sources of <img>
  let shown = null; // the request of those frames
  let settle = 0;
  let timer = 0;

  const steps = () => store.state.steps.trim() || String(Math.min(STEPS, mostImages()));

  function changed() {
    $("steps").value = steps();
    for (const radio of document.getElementsByName("method")) {
      radio.checked = radio.value === store.state.method;
    }
    $("walk-example").hidden = store.state.keep.length >= 2;
    clearTimeout(settle);
    const some = store.state.keep.length >= 2 || mostImages() >= EXAMPLE.length;
    if (store.state.view === "walk" && some) settle = setTimeout(refresh, SETTLE_MS);
    else play(false);
    enable();
  }

  /** Until there are frames, none can be shown or saved; but the settings can be put right. */
  function enable() {
    for (const id of USE) $(id).disabled = shown === null;
  }

  const busy = (on) => $("walk-body").setAttribute("aria-busy", on);

  async function refresh() {
    await attempt($("walk-problem"), refresh, () => one(async (signal) => {
      busy(false); // the request before this one, if there was any, has been aborted
      const { keep, method } = store.state;
      const between = keep.length >= 2 ? keep : EXAMPLE;
      const request = {
        walk: { between, steps: valueOf("walk.steps", "Number of frames", steps()), method },
        ...lookOf(store.state),
      };
      if (JSON.stringify(request) === JSON.stringify(shown)) return;
      busy(true);
      try {
        const reply = await askImages(request, { signal, onWait: sayWait });
        frames = reply.images.map(pictureUrl);
        shown = request;
        enable();
        lay();
        say(`A walk of ${frames.length} frames is ready.`);
      } finally {
        if (!signal.aborted) busy(false);
      }
    }));
  }

  /** Frames at which the path is at a kept picture, by the server's rule. */
  function places() {
    const { between } = shown.walk;
    return between.map((_, j) => Math.floor((j * (frames.length - 1)) / (between.length - 1)));
  }

  function lay() {
    slider.max = frames.length - 1;
    slider.value = Math.min(store.state.frame, frames.length - 1);
    const at = places();
    $("walk-track").replaceChildren(...at.map((frame) => {
      const image = make("img", { src: frames[frame], alt: "" });
      image.style.setProperty("--at", frame / (frames.length - 1));
      return image;
    }));
    show();
  }

  function show() {
    const frame = Number(slider.value);
    const { between } = shown.walk;
    const at = places();
    const j = at.findLastIndex((place) => place <= frame);
    const where = at[j] === frame
      ? `seed ${between[j]}` : `between seeds ${between[j]} and ${between[j + 1]}`;
    const text = `Frame ${frame + 1} of ${frames.length}, ${where}`;
    $("walk-frame").src = frames[frame];
    $("walk-frame").alt = text;
    $("walk-caption").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }

  function play(on) {
    clearInterval(timer);
    $("walk-play").setAttribute("aria-pressed", on);
    $("walk-play").textContent = on ? "Pause" : "Play";
    if (!on) return;
    let step = 1;
    timer = setInterval(() => {
      const next = Number(slider.value) + step;
      if (next < 0 || next > Number(slider.max)) step = -step; // to and fro
      slider.value = Number(slider.value) + step;
      show();
    }, FRAME_MS);
  }

  slider.addEventListener("input", show);
  slider.addEventListener("change", () => store.set({ frame: Number(slider.value) }));
  $("walk-play").addEventListener("click", () => {
    const on = $("walk-play").getAttribute("aria-pressed") !== "true";
    play(on);
    if (!on) store.set({ frame: Number(slider.value) });
  });
  $("steps").addEventListener("change", () => store.set({ steps: $("steps").value }));
  for (const radio of document.getElementsByName("method")) {
    radio.addEventListener("change", () => store.set({ method: radio.value }));
  }
  $("walk-frame-download").addEventListener("click", () => {
    saveFile(fileOf(frames[slider.value]), `dcgan-walk-frame-${Number(slider.value) + 1}.png`);
  });
  const moving = (type) => ({ format: { type, fps: Math.round(1000 / FRAME_MS) } });
  for (const type of ["webp", "gif"]) {
    const download = () => attempt($("walk-problem"), download, async () => {
      say("Fetching the animation.");
      const request = { ...shown, ...moving(type) };
      saveFile(await askMoving(request, type, { onWait: sayWait }), `dcgan-walk.${type}`);
    });
    $(`walk-${type}`).addEventListener("click", download);
  }
  saveButtons("walk", $("walk-problem"), () => ({
    request: shown,
    file: "dcgan-walk.png",
    moving: moving("webp"),
  }));
  store.on(["keep", "steps", "method", "view", "truncation", "edit"], changed);
  changed();
}
