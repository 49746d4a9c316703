// Taking things away: the server's own PNG files, and the requests as curl commands.

import { apiKey, askPng, directions, PREDICTIONS, ROOT, weights } from "./api.js";
import { $, make, notify, say } from "./dom.js";
import { attempt, sayWait } from "./report.js";

/**
 * Make the buttons work that save a picture, and copy its command and, where there is one, its
 * address.
 *
 * prefix: of their ids. place: where problems show. current: gives {request, file}, the request
 * of the picture that is shown and the name of its file.
 */
export function saveButtons(prefix, place, current) {
  const download = async () => {
    const { request, file } = current();
    await attempt(place, download, async () => {
      say("Fetching the PNG.");
      saveFile(await askPng(request, { onWait: sayWait }), file);
    });
  };
  $(`${prefix}-download`).addEventListener("click", download);
  $(`${prefix}-curl`).addEventListener("click", () => {
    const { request, file } = current();
    copy(curl(request, file), "The curl command");
  });
  $(`${prefix}-address`)?.addEventListener("click", () => {
    const { request, moving } = current();
    copy(addressOf({ ...request, ...moving }), "The address");
  });
}

/** Where the picture of a request can be linked to: of this very model, so it never changes. */
function addressOf({ seed, num_images: count = 1, seeds, walk, edit = {}, format = "png", ...query }) {
  const { between, ...path } = walk ?? {};
  const { type = format, ...motion } = typeof format === "object" ? format : {};
  const place = walk ? `walk/${between.join("-")}`
    : seeds ? `seeds/${seeds.join(",")}`
    : count > 1 ? `seeds/${seed}-${seed + count - 1}` : `seed/${seed}`;
  for (const [name, strength] of Object.entries(edit)) query[`edit.${name}`] = strength;
  const text = new URLSearchParams({ ...path, ...motion, ...query }).toString();
  const digests = [weights(), Object.keys(edit).length > 0 && directions()].filter(Boolean);
  const version = digests.map((digest) => digest.slice(0, 8)).join("-");
  return `${ROOT}${version && `/v/${version}`}/${place}.${type}${text && `?${text}`}`;
}

/** Let the browser save bytes as they are. */
export function saveFile(blob, file) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  notify(`Saved ${file}.`);
}

/** The command that gets the same file. The key is a shell variable: it is not to be shared. */
export function curl(request, file) {
  const key = apiKey() ? ' -H "X-API-Key: $DCGAN_API_KEY"' : "";
  return (
    `curl -X POST ${quoted(PREDICTIONS)} -H 'Content-Type: application/json'${key} ` +
    `-d ${quoted(JSON.stringify(request))} -o ${file}`
  );
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Put a text into the clipboard; `name` says what it is. */
export async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    notify(`${name} is in the clipboard.`);
  } catch {
    // No permission, or a page over plain http from another machine.
    $("copy-text").value = text;
    $("copy-dialog").showModal();
    $("copy-text").select();
  }
}
