// Reads streams 0 to COUNT - 1 below an address to their ends with the `eventsource` package, and
// prints what each gave: one JSON array a stream, in their order.
//
//   node read_all.mjs ADDRESS COUNT [TYPE ...]

import { EventSource } from "eventsource";

const [address, count, ...types] = process.argv.slice(2);
const AT_ONCE = 20;

function read(number) {
  return new Promise((resolve) => {
    const got = [];
    const source = new EventSource(`${address}/${number}`);
    for (const type of types) {
      source.addEventListener(type, (event) => got.push([event.type, event.data, event.lastEventId]));
    }
    // The end of a stream is an error: the package would come back.
    source.onerror = () => {
      source.close();
      resolve(got);
    };
  });
}

for (let first = 0; first < Number(count); first += AT_ONCE) {
  const numbers = Array.from({ length: Math.min(AT_ONCE, count - first) }, (_, i) => first + i);
  for (const got of await Promise.all(numbers.map(read))) {
    process.stdout.write(`${JSON.stringify(got)}\n`);
  }
}
process.stdout.write('"done"\n');
