// Reads [[name, text], ...] as JSON from the file named first; prints what TypeScript finds wrong in each text.
import { readFileSync } from "node:fs";
import ts from "typescript";

const compilerOptions = { jsx: ts.JsxEmit.Preserve, target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.ESNext };
for (const [name, text] of JSON.parse(readFileSync(process.argv[2], "utf-8"))) {
  const { diagnostics } = ts.transpileModule(text, { fileName: "block.jsx", reportDiagnostics: true, compilerOptions });
  for (const { messageText } of diagnostics) console.log(`${name}: ${messageText}`);
}
