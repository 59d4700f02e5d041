// Reads [[text, ...pieces], ...] as JSON from the file named first; prints what eventsource.js makes of each.
import { readFileSync } from "node:fs";

const [, , file, module] = process.argv;
const { eventStreamParser } = await import(module);
const cases = JSON.parse(readFileSync(file, "utf-8"));
console.log(JSON.stringify(cases.map((pieces) => {
  const parse = eventStreamParser();
  return pieces.flatMap((piece) => parse(piece));
})));
