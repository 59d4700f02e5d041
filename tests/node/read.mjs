// Reads a stream with the `eventsource` package and prints what it gets, one JSON value a line.
//
//   node read.mjs URL COUNT [TYPE ...]
//
// Ends after COUNT events. Tells of each in the file that `heard` in the URL names, if it does.
// TYPE: event types to listen for beside "message".

import { appendFileSync } from "node:fs";
import { EventSource } from "eventsource";

const [url, count, ...types] = process.argv.slice(2);
const source = new EventSource(url);
const heard = new URL(url).searchParams.get("heard");
let left = Number(count);
// While it waits to come back, the package lets the process end.
const alive = setInterval(() => {}, 60_000);

function print(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

function onEvent(event) {
  print({
    kind: "event",
    type: event.type,
    data: event.data,
    id: event.lastEventId,
  });
  if (heard) appendFileSync(heard, ".");
  left -= 1;
  if (left === 0) {
    source.close();
    clearInterval(alive);
    print({ kind: "done" });
  }
}

source.onopen = () => print({ kind: "open" });
source.onerror = (error) => print({ kind: "error", code: error.code, message: error.message });
for (const type of ["message", ...types]) source.addEventListener(type, onEvent);
