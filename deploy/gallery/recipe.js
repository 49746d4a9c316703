// A picture that comes back: what made it is in the file, and is drawn once more.

import { askPng, Problem } from "./api.js";
import { $, latest, say } from "./dom.js";
import { attempt, sayWait } from "./report.js";
import { saveButtons } from "./save.js";
import { stateOf } from "./store.js";

/** Make the button, and the page as a place to drop files on, work. */
export function recipes(store) {
  const one = latest();
  let shown = null; // the request of the picture in the dialog
  let file = null;

  const open = () => attempt($("draw-problem"), open, () => one(async (signal) => {
    const told = recipeOf(await bytesOf(file));
    const { format, ...request } = told.request; // a grid is shown, also of what moved
    const png = await askPng(request, { signal, onWait: sayWait });
    shown = request;
    const patch = stateOf(request);
    $("recipe-title").textContent = `From ${file.name}`;
    $("recipe-text").textContent = JSON.stringify(request, shortened, 1);
    const now = recipeOf(await bytesOf(png));
    $("recipe-other").hidden = ["weights_sha256", "directions_sha256"].every(
      (digest) => told[digest] === now[digest],
    );
    for (const id of ["recipe-address", "recipe-use"]) $(id).hidden = patch === null;
    Object.assign($("recipe-image"), { src: await urlOf(png), alt: "The picture, drawn again" });
    if (!$("recipe-dialog").open) $("recipe-dialog").showModal();
    say("The picture is drawn again.");
  }));

  function take(files) {
    if (files.length === 0) return;
    [file] = files;
    open();
  }

  $("recipe-open").addEventListener("click", () => $("recipe-file").click());
  $("recipe-file").addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = ""; // so that the same file counts as a change again
  });
  addEventListener("dragover", (event) => {
    if ([...event.dataTransfer.types].includes("Files")) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length === 0) return;
    event.preventDefault(); // the browser would leave the page for the picture
    take(event.dataTransfer.files);
  });
  $("recipe-use").addEventListener("click", () => {
    $("recipe-dialog").close();
    store.visit(stateOf(shown));
  });
  saveButtons("recipe", $("draw-problem"), () => ({ request: shown, file: "dcgan-again.png" }));
}

/** Latents are long, and say nothing to anybody. */
const shortened = (name, value) =>
  (name === "noise" ? `${JSON.stringify(value).slice(0, 24)}…` : value);

const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

const urlOf = (blob) => new Promise((resolve) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.readAsDataURL(blob);
});

/**
 * What made a PNG or APNG (tEXt chunk dcgan), a WebP (XMP) or a GIF (comment) of this service.
 *
 * Throws a Problem where the file does not say it.
 */
export function recipeOf(bytes) {
  const text = textIn(bytes);
  try {
    const told = JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1));
    if (typeof told.request === "object" && told.request !== null) return told;
  } catch {
    // as below
  }
  throw new Problem({
    title: "This file does not say what made it",
    detail: "Choose a PNG, WebP or GIF of this service, as it was saved: other programs leave the "
      + "recipe out when they save a picture again.",
    field: "file",
  });
}

function textIn(bytes) {
  const view = new DataView(bytes.buffer);
  const text = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  if (text(1, 4) === "PNG") {
    for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
      if (text(at + 4, at + 14) === "tEXtdcgan\0") return text(at + 14, at + 8 + view.getUint32(at));
    }
  }
  if (text(8, 12) === "WEBP") {
    for (let at = 12, size; at + 8 <= bytes.length; at += 8 + size + (size % 2)) {
      size = view.getUint32(at + 4, true);
      if (text(at, at + 4) === "XMP ") return unescaped(text(at + 8, at + 8 + size));
    }
  }
  if (text(0, 3) === "GIF") {
    let at = bytes.findIndex((byte, i) => byte === 0x21 && bytes[i + 1] === 0xfe) + 2;
    let found = "";
    for (; at > 1 && bytes[at] > 0; at += 1 + bytes[at]) found += text(at + 1, at + 1 + bytes[at]);
    return found;
  }
  return "";
}

/** Text of XML as it was: no parser may be used here (Trusted Types). */
const unescaped = (text) =>
  text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"').replaceAll("&amp;", "&");
