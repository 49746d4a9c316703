// Taking things away: the server's own PNG files, and the requests as curl commands.

import { apiKey, askPng, PREDICTIONS } from "./api.js";
import { $, make, notify, say } from "./dom.js";
import { attempt, sayWait } from "./report.js";

/**
 * Make a pair of buttons work.
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
